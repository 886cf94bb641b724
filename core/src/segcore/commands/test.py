"""`<paper>-test RECIPE CHECKPOINT`: score a checkpoint, or write its predictions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from segcore.commands.parsing import parse_recipe
from segcore.commands.running import Command, command
from segcore.commands.scores import check_metrics, print_scores
from segcore.data import create_dataset
from segcore.errors import InputError
from segcore.files import Output, atomic_write, check_opacity, check_outputs, make_folder
from segcore.paper import Paper
from segcore.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from segcore.data.base import FileDataset, Sample, SegmentationDataset
    from segcore.evaluation.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """How to test."""

    __test__: ClassVar[bool] = False  # its name is no test of pytest's

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights: ours (.safetensors) or a published .pth."""
    eval: tuple[str, ...] = ("mIoU",)
    """Scores to print: mIoU, mDice, mFscore, cityscapes (class and category averages of its tools)."""
    aug_test: bool = False
    """Multi-scale + flip: the recipe's --evaluate.aug-ratios and --evaluate.aug-flip."""
    out: str = ""
    """Folder for the predicted label maps (8-bit PNG of train ids)."""
    format_only: bool = False
    """Write the predictions in the encoding of the data set's test server into --out, without scoring."""
    show_dir: str = ""
    """Folder for overlays of the predictions on the images."""
    opacity: float = 0.5
    """Opacity of the overlays, 0 to 1."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""


def test_command(paper: Paper) -> Command:
    """Return the console script that tests a paper's networks."""
    program = f"{paper.name}-test"

    def body(words: list[str]) -> int:
        request = parse_recipe(program, paper, words, TestOptions)
        if request is not None:
            test(paper, request.name, request.recipe, request.options)
        return 0

    return command(program, body)


def _check(options: TestOptions, dataset: str) -> None:
    check_metrics(options.eval, dataset)
    if options.format_only and not options.out:
        raise InputError("--format-only needs --out DIR for the files to submit")
    check_opacity(options.opacity)


def _label_path(options: TestOptions, name: str) -> Path:
    """Return where the label map of a sample goes; a test server wants the files without folders."""
    return Path(options.out, f"{Path(name).name if options.format_only else name}.png")


def _overlay_path(options: TestOptions, name: str) -> Path:
    return Path(options.show_dir, f"{name}.jpg")


def _check_outputs(options: TestOptions, recipe: Recipe, dataset: SegmentationDataset) -> None:
    """Refuse before the work what would replace a file of the data set or cannot be written after it."""
    from segcore.data.base import FileDataset

    if isinstance(dataset, FileDataset):  # the others have no files that could be replaced
        files = [path for index in range(len(dataset)) for path in dataset.files(index) if path is not None]
        check_outputs(_outputs(options, dataset), files)
    folders = {"--out": options.out, "--show-dir": options.show_dir}
    if not options.format_only:
        folders["--work-dir"] = recipe.run.work_dir or "."
    for option, folder in folders.items():
        if folder:
            make_folder(Path(folder), option)


def _outputs(options: TestOptions, dataset: FileDataset) -> Iterator[Output]:
    """Yield every picture that will be written."""
    for item in dataset.items:
        if options.out:
            yield Output(_label_path(options, item.name), item.image, "--out")
        if options.show_dir:
            yield Output(_overlay_path(options, item.name), item.image, "--show-dir")


def _writer(options: TestOptions, dataset: SegmentationDataset) -> Callable[[int, Sample, Tensor], None] | None:
    """Return the hook that writes each prediction as the options ask, or None where they ask for none."""
    if not options.out and not options.show_dir:
        return None
    from segcore.images.label_files import encode_submission, save_label, save_overlay, submission_palette

    def write(_: int, sample: Sample, prediction: Tensor) -> None:
        label = prediction.cpu().numpy()
        if options.out and options.format_only:
            encoded = encode_submission(dataset.name, label)
            save_label(_label_path(options, sample.name), encoded, submission_palette(dataset.name))
        elif options.out:
            save_label(_label_path(options, sample.name), label, dataset.classes.palette)
        if options.show_dir:
            path = _overlay_path(options, sample.name)
            save_overlay(path, sample.image, label, dataset.classes.palette, options.opacity)

    return write


def test(paper: Paper, name: str, recipe: Recipe, options: TestOptions) -> Scores | None:
    """Score a checkpoint on the recipe's test split, or write its predictions for a test server.

    Prints the per-class table and a final `mIoU` line; writes `eval_<scale>_<time>.json` into the work directory.

    Raises:
        InputError: for impossible options, unusable data, outputs that would replace the data set's files or cannot be
            written, or a checkpoint of another model.
    """
    _check(options, recipe.data.dataset)
    from segcore import distributed  # torch loads only here, so --help is instant
    from segcore.build import model_for_checkpoint, placed
    from segcore.evaluation.evaluate import evaluate

    world = distributed.init(recipe.run.device)
    try:
        data = recipe.data
        dataset = create_dataset(data, recipe.run.data, data.test_split, list_file=data.test_list)
        _check_outputs(options, recipe, dataset)
        num_classes = len(dataset.classes.names)
        model = model_for_checkpoint(paper, recipe, num_classes, options.checkpoint, unsafe=options.unsafe)
        model = placed(model, recipe.run, world.device).eval()
        started = time.perf_counter()
        scores = evaluate(
            model,
            dataset,
            recipe.evaluate.protocol(options.aug_test),
            device=world.device,
            workers=data.workers,
            amp=recipe.run.amp,
            on_prediction=_writer(options, dataset),
            with_labels=not options.format_only,
            show_progress=world.is_main,
        )
        seconds = time.perf_counter() - started
        if world.is_main:
            _report(paper, name, recipe, options, dataset, scores, seconds)
        distributed.barrier()  # the others must not end, and their connections with them, while the first one writes
        return None if options.format_only else scores
    finally:
        distributed.shutdown()


def _report(
    paper: Paper,
    name: str,
    recipe: Recipe,
    options: TestOptions,
    dataset: SegmentationDataset,
    scores: Scores,
    seconds: float,
) -> None:
    from rich.console import Console

    console = Console()
    rate = f"{len(dataset)} images in {seconds:.1f} s ({len(dataset) / seconds:.2f} images/s)"
    if options.format_only:
        console.print(f"wrote {len(dataset)} predictions for the {dataset.name} server to {options.out}; {rate}")
        return
    published = _published(paper, name, recipe, options.aug_test)
    note = f" (published {published:g})" if published is not None else ""
    protocol = "ms+flip" if options.aug_test else "single scale"
    head = f"{paper.name} {name}, {dataset.name} {recipe.data.test_split}, {protocol}: {rate}"
    summary = print_scores(console, scores, dataset.classes, options.eval, head, note)
    result = {"checkpoint": options.checkpoint, "protocol": protocol, "images": len(dataset)}
    _save(Path(recipe.run.work_dir), "multi" if options.aug_test else "single", result, summary)


def _save(folder: Path, scale: str, result: dict[str, object], summary: Mapping[str, float]) -> None:
    """Write eval_<scale>_scale_<time>.json; scores of absent classes, NaN, become null: JSON knows no NaN."""
    metric = {name: value if math.isfinite(value) else None for name, value in summary.items()}
    text = json.dumps({**result, "metric": metric}, indent=1, allow_nan=False)
    with atomic_write(folder / f"eval_{scale}_scale_{time.strftime('%Y%m%d_%H%M%S')}.json") as file:
        file.write(f"{text}\n".encode())


def _published(paper: Paper, name: str, recipe: Recipe, aug_test: bool) -> float | None:
    """Return the published mIoU, percent, unless the options ask for another data set or model than the recipe has."""
    own = paper.recipes.get(name)
    if own is None or own.data.dataset != recipe.data.dataset:
        return None
    start = {"pretrained": own.model.pretrained, "weights": own.model.weights}  # not what the network is
    if replace(recipe.model, **start) != own.model:
        return None
    return recipe.published.miou_ms if aug_test else recipe.published.miou
