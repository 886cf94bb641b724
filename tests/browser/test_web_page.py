"""The page that runs networks, in a real browser: load, verify, predict, click, compare, camera, and every error."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segcore.data.folder import FolderDataset
from segcore.data.toy.dataset import ToyScenes
from segcore.models import create_model
from segcore.predictor import Predictor
from segcore.segmentor import Segmentor
from segcore.web.folder import PageOptions, write_page_folder
from segcore.web.serve import server_of
from tests.browser.test_pages import DESKTOP, PHONE, playwright

pytestmark = pytest.mark.browser
RUNTIME = Path("core/node_modules/onnxruntime-web")
WHOLE, WINDOWS = "cgrseg-toy", "unept-toy"
"""Two networks: one sees a picture whole, the other in padded windows."""
WAIT = 120_000
MARGIN = 1e-3


def _lively(name: str) -> Segmentor:
    """Return a network whose classes all occur, though it was never trained."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == model.num_classes:
            torch.nn.init.normal_(module.weight, std=1.0)
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {name: _lively(name).save_pretrained(folder / name) / "model.safetensors" for name in (WHOLE, WINDOWS)}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of own data: six generated scenes."""
    root = tmp_path_factory.mktemp("data")
    scenes = ToyScenes("val", 6, (64, 96))
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(6):
        scene = scenes.load(number)
        cv2.imwrite(str(root / "images" / f"{number}.png"), scene.image)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), scene.label)
    (root / "classes.txt").write_text("\n".join(ToyScenes.classes.names))
    assert len(FolderDataset(root, "all")) == 6
    return root


@pytest.fixture(scope="module")
def page_folder(checkpoints: dict[str, Path], labeled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert RUNTIME.is_dir(), "the tests of the page need core/node_modules: npm ci --prefix core"
    folder = tmp_path_factory.mktemp("page") / "page"
    write_page_folder([checkpoints[WINDOWS]], folder, PageOptions(runtime=RUNTIME))
    windows = json.loads((folder / "manifest.json").read_text())["networks"]
    kept = {path.name: path.read_bytes() for path in folder.glob(f"{WINDOWS}*")}
    write_page_folder(
        [checkpoints[WHOLE]], folder, PageOptions(runtime=RUNTIME, int8=labeled)
    )  # 8 bits of one is enough
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    plain, small = manifest["networks"]
    manifest["networks"] = [plain, *windows, small]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("the tests of the pages need Chromium: apt-get install chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as session:
        opened = session.chromium.launch(executable_path=program, args=["--no-sandbox", *camera])
        yield opened
        opened.close()


@contextmanager
def opened(
    browser: Any, folder: Path, *, width: int = DESKTOP, scheme: str = "light", expected: tuple[str, ...] = ()
) -> Iterator[Any]:
    """Serve a folder and open its page; afterwards, the console may have said nothing but what is expected."""
    said: list[str] = []
    with server_of(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"]
        )
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        yield page
        context.close()
        server.shutdown()
    assert [words for words in said if not any(part in words for part in expected)] == []


def finished(page: Any, count: int) -> None:
    """Wait until nothing is under way and so many networks have answered."""
    page.wait_for_function(
        "n => document.getElementById('work').hidden && document.querySelectorAll('.card').length === n", arg=count
    )


def verified(page: Any, count: int) -> None:
    page.wait_for_function("n => document.querySelectorAll('.state.verified').length >= n", arg=count)


def saved(page: Any, card: int, kind: str) -> np.ndarray:
    """Press a card's button and return the picture that is saved."""
    with page.expect_download() as download:
        page.locator(".card").nth(card).locator(kind).click()
    return cv2.imread(str(download.value.path()), cv2.IMREAD_UNCHANGED)


def try_example(page: Any, number: int) -> None:
    """Choose an example and wait for the answers of two networks."""
    page.locator("#examples button").nth(number).click()
    finished(page, 2)


def give(page: Any, path: Path, size: tuple[int, int]) -> None:
    """Choose a file of a size that no earlier one had, and wait for the answers of two networks."""
    page.set_input_files("#file", str(path))
    page.wait_for_function(
        "([height, width]) => [...document.querySelectorAll('canvas')]"
        ".filter(c => c.height === height && c.width === width).length === 2",
        arg=list(size),
    )


def blobs(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    small = generator.integers(0, 256, (*generator.integers(3, 12, 2), 3), dtype=np.uint8)
    return cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def test_pages_answer_as_the_predictor_on_20_pictures_of_odd_sizes(
    browser: Any, page_folder: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    predictors = [Predictor.from_checkpoint(checkpoints[name], device="cpu") for name in (WHOLE, WINDOWS)]
    classes: set[int] = set()
    with opened(browser, page_folder) as page:
        verified(page, 2)
        for number in range(20):
            height, width = (int(side) for side in generator.integers(20, 330, 2))
            image = blobs(generator, (height, width))
            cv2.imwrite(str(tmp_path / f"{number}.png"), image)
            give(page, tmp_path / f"{number}.png", (height, width))
            for card, predictor in enumerate(predictors):
                labels = saved(page, card, ".save-labels")[..., 0]
                expected, probabilities = predictor(image, with_probabilities=True)
                assert probabilities is not None
                differing = labels != expected
                assert differing.mean() <= 1e-3, (number, card)
                best = probabilities.topk(2, dim=0).values.numpy()
                assert np.all((best[0] - best[1])[differing] < MARGIN)
                classes |= set(np.unique(labels).tolist())
    assert len(classes) > 3


def test_an_example_is_segmented_probed_and_saved(
    browser: Any, page_folder: Path, checkpoints: dict[str, Path]
) -> None:
    image = cv2.imread(str(page_folder / "examples" / "2.png"))
    expected = Predictor.from_checkpoint(checkpoints[WHOLE], device="cpu")(image, with_probabilities=True)
    assert expected.probabilities is not None
    with opened(browser, page_folder) as page:
        verified(page, 2)
        try_example(page, 1)
        shares = page.locator(".card").first.locator("tbody .number").all_text_contents()
        assert sum(float(share.rstrip(" %")) for share in shares) == pytest.approx(100, abs=0.1)
        canvas = page.locator("canvas").first
        canvas.focus()
        for key in ("ArrowDown", "Shift+ArrowRight"):
            page.keyboard.press(key)
        place = (image.shape[0] // 2 + 1, image.shape[1] // 2 + 10)
        page.wait_for_function(
            "([y, x]) => document.querySelector('.probabilities p')?.textContent.includes(`row ${y}, column ${x}`)",
            arg=list(place),
        )
        top = page.locator(".card").first.locator(".probabilities .number").first.text_content()
        most = float(expected.probabilities[:, place[0], place[1]].max())
        assert float(top.rstrip(" %")) == pytest.approx(100 * most, abs=0.06)
        box = canvas.bounding_box()
        canvas.click(position={"x": box["width"] - 1, "y": box["height"] / 2})
        page.wait_for_function(
            "x => document.querySelector('.probabilities p').textContent.includes(`column ${x}`)",
            arg=image.shape[1] - 1,
        )
        palette = np.asarray(ToyScenes.classes.palette)[expected.label].astype(float)
        page.locator("#opacity").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
        overlay = saved(page, 0, ".save-overlay")[..., 2::-1]
        assert (np.abs(overlay - palette) < 1.5).all(axis=2).mean() > 0.999
        page.locator("input[value=confidence]").check()
        confidence = saved(page, 0, ".save-overlay")[..., 0] / 255
        assert np.abs(confidence - expected.probabilities.amax(dim=0).numpy()).max() < 0.01


def test_networks_are_compared_where_they_differ_and_can_be_left_out(browser: Any, page_folder: Path) -> None:
    with opened(browser, page_folder) as page:
        verified(page, 2)
        try_example(page, 0)
        one, other = (saved(page, card, ".save-labels")[..., 0] for card in (0, 1))
        share = f"{100 * (one != other).mean():.2f} %"
        assert share in page.locator("#agreement").text_content()
        page.locator("input[value=differences]").check()
        page.locator("#opacity").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
        red = (saved(page, 0, ".save-overlay")[..., :3] == (60, 30, 220)).all(axis=2)
        assert np.array_equal(red, one != other)
        page.locator("#networks input").nth(1).uncheck()
        assert page.locator(".card").count() == 1
        assert page.locator("input[value=classes]").is_checked()
        page.locator("#networks input").nth(2).check()  # the 8-bit one
        finished(page, 2)
        assert page.locator(".card h3").all_text_contents() == [WHOLE, f"{WHOLE}.int8"]
        facts = page.locator("#networks .facts").nth(2).text_content()
        assert "int8" in facts
        assert "mIoU" in facts
        assert "(float32:" in facts
        assert "as fast as float32" in facts


def test_the_camera_takes_a_picture(browser: Any, page_folder: Path) -> None:
    with opened(browser, page_folder) as page:
        verified(page, 2)
        page.locator("#camera").click()
        page.wait_for_function("document.getElementById('video').videoWidth > 0")
        page.locator("#shoot").click()
        finished(page, 2)
        assert not page.locator("dialog").is_visible()


def test_a_picture_can_be_dropped_and_pasted(browser: Any, page_folder: Path) -> None:
    event = """async ([type, field]) => {
      const data = new DataTransfer();
      const blob = await (await fetch("examples/1.png")).blob();
      data.items.add(new File([blob], "street.png", { type: "image/png" }));
      document.body.dispatchEvent(type === "drop"
        ? new DragEvent(type, { bubbles: true, dataTransfer: data })
        : new ClipboardEvent(type, { bubbles: true, clipboardData: data }));
    }"""
    for kind in ("drop", "paste"):
        with opened(browser, page_folder) as page:
            verified(page, 2)
            page.evaluate(event, [kind, ""])
            finished(page, 2)


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")])
def test_nothing_overlaps_or_leaves_the_screen(browser: Any, page_folder: Path, width: int, scheme: str) -> None:
    with opened(browser, page_folder, width=width, scheme=scheme) as page:
        verified(page, 2)
        try_example(page, 0)
        page.locator("canvas").first.click()
        page.wait_for_selector(".bar")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.evaluate(
            "[...document.querySelectorAll('.panel, h1, h2, #status, #agreement')].filter(e => e.offsetParent)"
            ".filter(e => !e.parentElement.closest('.panel')).map(e => e.getBoundingClientRect())"
            ".map(b => [b.left, b.top, b.right, b.bottom])"
        )
        assert len(boxes) > 6
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0
            assert right <= width
            for other in boxes[i + 1 :]:
                apart = other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top
                assert apart, (width, (left, top, right, bottom), other)


def _changed(page_folder: Path, tmp_path: Path, change: Any) -> Path:
    """Return a copy of the page whose manifest was changed."""
    folder = tmp_path / "page"
    shutil.copytree(page_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _damage(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / manifest["networks"][0]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _other_runtime(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / "runtime" / "ort.wasm.bundle.min.mjs"
    path.write_bytes(path.read_bytes() + b"//")


def _other_golden(manifest: dict[str, Any], folder: Path) -> None:
    path = str(folder / manifest["networks"][0]["golden"]["labels"])
    cv2.imwrite(path, np.zeros_like(cv2.imread(path, cv2.IMREAD_UNCHANGED)))


def _missing(manifest: dict[str, Any], folder: Path) -> None:
    (folder / manifest["networks"][0]["file"]).unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_damage, f"{WHOLE}.onnx is damaged: it is not the file that was exported."),
        (_other_runtime, "ort.wasm.bundle.min.mjs is not the runtime that this page was made with"),
        (_other_golden, f"{WHOLE} does not give its golden picture's label map here:"),
        (_missing, f"{WHOLE}.onnx could not be loaded:"),
    ],
)
def test_what_is_not_what_was_exported_is_named_and_not_used(
    browser: Any, page_folder: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    folder = _changed(page_folder, tmp_path, change)
    with opened(browser, folder, expected=("404",)) as page:
        page.wait_for_selector("#failure:not([hidden])")
        assert sentence in page.locator("#failure").text_content()
        verified_names = page.locator(".networks .name:has(.state.verified)").all_text_contents()
        assert not any(name.startswith(f"{WHOLE}v") for name in verified_names)


def test_what_is_no_picture_is_one_sentence(browser: Any, page_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with opened(browser, page_folder) as page:
        verified(page, 2)
        page.set_input_files("#file", str(tmp_path / "notes.png"))
        page.wait_for_selector("#failure:not([hidden])")
        said = page.locator("#failure").text_content()
        assert said.startswith("notes.png is no picture that this browser can read")
        page.locator("#examples button").first.click()  # and the page goes on
        page.wait_for_selector(".card")
        assert page.locator("#failure").is_hidden()


def test_a_browser_without_what_it_needs_is_told(browser: Any, page_folder: Path) -> None:
    with opened(browser, page_folder) as page:
        page.add_init_script("delete window.OffscreenCanvas;")
        page.reload()
        page.wait_for_selector("#failure:not([hidden])")
        assert "This browser lacks OffscreenCanvas" in page.locator("#failure").text_content()
