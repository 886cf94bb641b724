"""What `<paper>-test` and `<paper>-predict` do after parsing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from segcore import distributed
from segcore.build import model_for_checkpoint
from segcore.commands.parsing import PredictOptions, TestOptions
from segcore.commands.predict import encode_submission, run, save_label, save_overlay, submission_palette
from segcore.data import create_dataset
from segcore.data.base import FileDataset, Sample, SegmentationDataset
from segcore.errors import InputError
from segcore.evaluation.evaluate import evaluate
from segcore.evaluation.label_folder import cityscapes_summary
from segcore.evaluation.metrics import Scores
from segcore.files import Target, atomic_write, check_opacity, check_targets, make_folder
from segcore.images.visualize import score_table
from segcore.paper import Paper
from segcore.predictor import Predictor
from segcore.recipe import Evaluate, Recipe
from segcore.segmentor import Segmentor

METRICS = ("mIoU", "mDice", "mFscore")
CITYSCAPES = "cityscapes"
"""Value of --eval for the scores of the Cityscapes tools: averages over classes and categories."""


def _protocol(recipe: Recipe, aug_test: bool) -> Evaluate:
    return recipe.evaluate.with_augmentation() if aug_test else recipe.evaluate


def _check(options: TestOptions, dataset: str) -> None:
    unknown = [name for name in options.eval if name not in (*METRICS, CITYSCAPES)]
    if unknown:
        raise InputError(f"--eval {' '.join(unknown)} is unknown; choose from {', '.join((*METRICS, CITYSCAPES))}")
    if CITYSCAPES in options.eval and dataset != CITYSCAPES:
        raise InputError(f"--eval cityscapes scores the data set cityscapes, not {dataset}; choose mIoU")
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
    if isinstance(dataset, FileDataset):  # the others have no files that could be replaced
        files = [path for index in range(len(dataset)) for path in dataset.files(index) if path is not None]
        check_targets(_targets(options, dataset), files)
    folders = {"--out": options.out, "--show-dir": options.show_dir}
    if not options.format_only:
        folders["--work-dir"] = recipe.run.work_dir or "."
    for option, folder in folders.items():
        if folder:
            make_folder(Path(folder), option)


def _targets(options: TestOptions, dataset: FileDataset) -> Iterator[Target]:
    """Yield every picture that will be written."""
    for item in dataset.items:
        if options.out:
            yield Target(_label_path(options, item.name), item.image, "--out")
        if options.show_dir:
            yield Target(_overlay_path(options, item.name), item.image, "--show-dir")


def _writer(options: TestOptions, dataset: SegmentationDataset) -> Callable[[int, Sample, Tensor], None] | None:
    """Return the hook that writes each prediction as the options ask, or None where they ask for none."""
    if not options.out and not options.show_dir:
        return None

    def write(_: int, sample: Sample, prediction: Tensor) -> None:
        label = prediction.cpu().numpy()
        if options.out and options.format_only:
            encoded = encode_submission(dataset.name, label)
            save_label(_label_path(options, sample.name), encoded, submission_palette(dataset.name))
        elif options.out:
            save_label(_label_path(options, sample.name), label, dataset.classes.palette)
        if options.show_dir:
            target = _overlay_path(options, sample.name)
            save_overlay(target, sample.image, label, dataset.classes.palette, options.opacity)

    return write


def _load(
    paper: Paper, recipe: Recipe, num_classes: int, checkpoint: str, unsafe: bool, device: torch.device
) -> Segmentor:
    model = model_for_checkpoint(paper, recipe, num_classes, checkpoint, unsafe=unsafe)
    memory_format = torch.channels_last if recipe.run.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=memory_format).eval()


def test(paper: Paper, name: str, recipe: Recipe, options: TestOptions) -> Scores | None:
    """Score a checkpoint on the recipe's test split, or write its predictions for a test server.

    Prints the per-class table and a final `mIoU` line; writes `eval_<scale>_<time>.json` into the work directory.

    Raises:
        InputError: for impossible options, unusable data, outputs that would replace the data set's files or cannot be
            written, or a checkpoint of another model.
    """
    _check(options, recipe.data.dataset)
    world = distributed.init(recipe.run.device)
    try:
        data = recipe.data
        dataset = create_dataset(data, recipe.run.data, data.test_split, list_file=data.test_list)
        _check_outputs(options, recipe, dataset)
        model = _load(paper, recipe, len(dataset.classes.names), options.checkpoint, options.unsafe, world.device)
        started = time.perf_counter()
        scores = evaluate(
            model,
            dataset,
            _protocol(recipe, options.aug_test),
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
    console = Console()
    rate = f"{len(dataset)} images in {seconds:.1f} s ({len(dataset) / seconds:.2f} images/s)"
    if options.format_only:
        console.print(f"wrote {len(dataset)} predictions for the {dataset.name} server to {options.out}; {rate}")
        return
    published = _published(paper, name, recipe, options.aug_test)
    metrics = tuple(metric for metric in options.eval if metric in METRICS) or ("mIoU",)
    console.print(score_table(scores, dataset.classes, metrics))
    note = f" (published {published:g})" if published is not None else ""
    protocol = "ms+flip" if options.aug_test else "single scale"
    console.print(f"{paper.name} {name}, {dataset.name} {recipe.data.test_split}, {protocol}: {rate}")
    summary = scores.summary(metrics)
    if CITYSCAPES in options.eval:
        for key, value in cityscapes_summary(scores).items():
            console.print(f"{key} {100 * value:.2f}")
            summary[f"cityscapes.{key}"] = value
    for metric in dict.fromkeys((*metrics, "mIoU")):  # mIoU last where it was not asked for
        value = scores.summary((metric,))[metric]
        console.print(f"{metric} {100 * value:.2f}{note if metric == 'mIoU' else ''}")
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


def predict(paper: Paper, name: str, recipe: Recipe, options: PredictOptions) -> None:
    """Write label maps and overlays for the user's own images.

    Raises:
        InputError: for inputs that cannot be read, outputs that would replace them, or a checkpoint of another model.
    """
    check_opacity(options.opacity)
    predictor = Predictor.from_checkpoint(
        options.checkpoint, paper=paper, recipe=recipe, unsafe=options.unsafe, device=recipe.run.device
    )
    predictor = replace(predictor, protocol=_protocol(recipe, options.aug_test))
    run(predictor, list(options.inputs), Path(options.out), opacity=options.opacity, show_dir=options.show_dir)
