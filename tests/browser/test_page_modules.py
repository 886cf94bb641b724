"""The page's resizing, windows and logits, run by Node, against core's own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import segcore.web
from segcore.evaluation.inference import ViewSum, grid_of, map_of_windows, views
from segcore.evaluation.logit_map import row_table
from segcore.recipe import Evaluate
from segcore.web.folder import protocol_rules
from tests.web.test_folder import PROTOCOLS

pytestmark = pytest.mark.browser
PAGE = Path(segcore.web.__file__).parent / "page"
NUM_CLASSES = 5


def run(folder: Path, **cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the modules by Node, which takes them as modules where a package.json says so."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("the tests of the page need Node: apt-get install nodejs npm")
    shutil.copytree(PAGE, folder / "page")
    (folder / "package.json").write_text('{"type": "module"}')
    words = [node, str(Path(__file__).with_name("page_modules.mjs")), str(folder / "page")]
    given = json.dumps({"resizes": [], "tests": [], "maps": []} | cases)
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def array(words: str, kind: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(words), kind).reshape(shape)


def picture(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return generator.integers(0, 256, (*size, 3), dtype=np.uint8)


def sizes(generator: np.random.Generator, most: int) -> tuple[int, int]:
    height, width = generator.integers(1, most, 2).tolist()
    return height, width


def test_pictures_are_resized_as_opencv_does_bit_by_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pairs = [(picture(generator, sizes(generator, 120)), sizes(generator, 160)) for _ in range(150)]
    cases = [{"rgb": text(image), "size": image.shape[:2], "to": to} for image, to in pairs]
    for (image, to), got in zip(pairs, run(tmp_path, resizes=cases)["resizes"], strict=True):
        expected = cv2.resize(image, (to[1], to[0]), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(array(got, "u1", *to, 3), expected), (image.shape, to)


def test_size_and_windows_of_a_test_are_those_of_inference(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    pairs = [(picture(generator, sizes(generator, 200)), rules) for rules in PROTOCOLS.values() for _ in range(8)]
    cases = [
        {"rgb": text(image), "size": image.shape[:2], "protocol": asdict(protocol_rules(rules))}
        for image, rules in pairs
    ]
    for (image, rules), got in zip(pairs, run(tmp_path, tests=cases)["tests"], strict=True):
        expected = views(image, rules)[0].pixels.numpy()
        assert tuple(got["size"]) == expected.shape[:2]
        assert np.array_equal(array(got["rgb"], "u1", *expected.shape), expected)
        grid = grid_of(nn.Identity(), expected.shape[:2], rules)
        assert (got["grid"]["tops"], got["grid"]["lefts"]) == (list(grid.tops), list(grid.lefts))
        assert tuple(got["grid"]["window"]) == grid.window


def test_values_classes_and_probabilities_are_those_of_inference(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    pairs = [_map(generator, rules) for rules in PROTOCOLS.values() for _ in range(4)]
    results = run(tmp_path, maps=[case for case, _, _ in pairs])["maps"]
    for (case, values, rules), got in zip(pairs, results, strict=True):
        height, width = case["original"]
        rows = np.stack([array(row, "f4", NUM_CLASSES, width) for row in got["rows"]], axis=1)
        np.testing.assert_allclose(rows, values.numpy(), atol=2e-5)
        probabilities = values if rules.family == "S" and rules.probabilities else values.softmax(dim=0)
        best = probabilities.topk(2, dim=0).values.numpy()
        differing = array(got["labels"], "u1", height, width) != values.argmax(dim=0).numpy()
        assert np.all((best[0] - best[1])[differing] < 1e-4)
        assert np.abs(array(got["confidence"], "u1", height, width) / 255 - best[0]).max() < 0.5 / 255 + 1e-4
        y, x = got["place"]
        expected = probabilities[:, y, x].numpy()
        np.testing.assert_allclose(array(got["probabilities"], "f4", NUM_CLASSES), expected, atol=2e-5)


def _map(generator: np.random.Generator, rules: Evaluate) -> tuple[dict[str, Any], torch.Tensor, Evaluate]:
    """Return logits of the windows of a picture, what inference makes of their logits, and the rules."""
    image = picture(generator, tuple(generator.integers(20, 120, 2).tolist()))
    seen = views(image, rules)[0].pixels.shape[:2]
    grid = grid_of(nn.Identity(), (seen[0], seen[1]), rules)
    divisor = max(rules.pad_divisor, 1)
    padded = (-(-grid.padded[0] // divisor) * divisor, -(-grid.padded[1] // divisor) * divisor)
    coarse = (-(-padded[0] // 4), -(-padded[1] // 4))
    places = list(product(grid.tops, grid.lefts))
    windows = [generator.normal(size=(1, NUM_CLASSES, *coarse)).astype(np.float32) for _ in places]
    size = (image.shape[0], image.shape[1])
    total = ViewSum(size, rules)
    tensors = [torch.from_numpy(window) for window in windows]
    total.add(map_of_windows(tensors, grid._replace(padded=padded), (seen[0], seen[1]), rules))
    case = {
        "windows": [{"values": text(window), "size": coarse} for window in windows],
        "numClasses": NUM_CLASSES,
        "grid": {"tops": grid.tops, "lefts": grid.lefts, "window": grid.window},
        "padded": padded,
        "size": list(seen),
        "original": size,
        "protocol": asdict(protocol_rules(rules)),
    }
    return case, _unaveraged(total, rules), rules


def _unaveraged(total: ViewSum, rules: Evaluate) -> torch.Tensor:
    """Return the values that the page compares: family M's logits, where `fold` gives their softmax."""
    (part,) = total.maps
    if rules.family == "S":
        return total.fold()
    size = total.size
    table = row_table(part.valid[0], size[0], part.values[0].device)
    return part.resized(table, size[1], 0, size[0])[0]
