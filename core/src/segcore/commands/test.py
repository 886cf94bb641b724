"""`<paper>-test RECIPE CHECKPOINT`, `segcore test CHECKPOINT`: score a checkpoint, or write its predictions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from segcore.commands.parsing import Request, parse_checkpoint, parse_recipe
from segcore.commands.running import Command, command
from segcore.commands.scores import check_metrics, print_scores, summarize
from segcore.data import choose_test_split, create_dataset
from segcore.errors import InputError
from segcore.evaluation.score_files import ScoredImages, ScoreFile, defined, file_hash, now, score_path, write_score
from segcore.files import Output, check_opacity, check_outputs, make_folder
from segcore.paper import Paper
from segcore.recipe import Evaluate, Recipe
from segcore.weights.header import require_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from segcore.data.base import FileDataset, Sample, SegmentationDataset
    from segcore.evaluation.image_counts import ImageCounter
    from segcore.evaluation.metrics import Scores


_ABOUT = (
    """Score a checkpoint on the test split of its recipe, and write the score beside it; or write its predictions."""
)


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
    return command(program, lambda words: _run(parse_recipe(program, paper, words, TestOptions)))


def main(words: list[str]) -> int:
    """Run `segcore test CHECKPOINT`; returns the exit code.

    Raises:
        InputError: see `test`.
    """
    return _run(parse_checkpoint("segcore test", _ABOUT, words, TestOptions))


def _run(asked: Request | None) -> int:
    if asked is not None:
        test(asked.paper, asked.name, asked.recipe, asked.options)
    return 0


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


def _check_outputs(options: TestOptions, dataset: SegmentationDataset) -> None:
    """Refuse before the work what would replace a file of the data set or cannot be written after it."""
    from segcore.data.base import FileDataset

    if isinstance(dataset, FileDataset):  # the others have no files that could be replaced
        files = [path for index in range(len(dataset)) for path in dataset.files(index) if path is not None]
        check_outputs(_outputs(options, dataset), files)
    for option, folder in {"--out": options.out, "--show-dir": options.show_dir}.items():
        if folder:
            make_folder(Path(folder), option)


def _score_folder(checkpoint: str, work_dir: str) -> tuple[Path, str]:
    """Return where the score goes, and why it is not beside the weights where it cannot be."""
    beside = Path(checkpoint).parent
    try:
        return make_folder(beside, ""), ""
    except InputError:
        why = f" (the folder of the weights, {beside}, cannot be written)"
        return make_folder(Path(work_dir or "."), "--work-dir"), why


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
            save_overlay(path, sample.image, label, dataset.classes, options.opacity)

    return write


@dataclass(frozen=True, kw_only=True)
class _Test:
    """A test that can begin: its data set opened, its options and outputs checked, all before torch is loaded."""

    paper: Paper
    name: str
    recipe: Recipe
    options: TestOptions
    protocol: Evaluate
    dataset: SegmentationDataset
    folder: Path
    """Where the score goes."""
    why: str
    """Why that is not beside the weights; empty where it is."""
    split_note: str
    """That another split is tested than the recipe says; empty where it is not."""


def _prepare(paper: Paper, name: str, recipe: Recipe, options: TestOptions) -> _Test:
    protocol = recipe.evaluate.protocol(options.aug_test)
    _check(options, recipe.data.dataset)
    require_checkpoint(Path(options.checkpoint))
    data, split_note = choose_test_split(recipe.data, recipe.run.data)
    recipe = replace(recipe, data=data)
    dataset = create_dataset(data, recipe.run.data, data.test_split, list_file=data.test_list)
    protocol.check_classes(len(dataset.classes.names))
    _check_outputs(options, dataset)
    folder, why = (Path(), "") if options.format_only else _score_folder(options.checkpoint, recipe.run.work_dir)
    return _Test(
        paper=paper,
        name=name,
        recipe=recipe,
        options=options,
        protocol=protocol,
        dataset=dataset,
        folder=folder,
        why=why,
        split_note=split_note,
    )


def test(paper: Paper, name: str, recipe: Recipe, options: TestOptions) -> Scores | None:
    """Score a checkpoint on the recipe's test split, or write its predictions for a test server.

    Prints the per-class table and a final `mIoU` line; writes the score beside the weights (`score_path`).

    Raises:
        InputError: for impossible options, unusable data, outputs that would replace the data set's files or cannot be
            written, or a checkpoint of another model.
    """
    asked = _prepare(paper, name, recipe, options)
    from segcore import distributed  # torch loads only here, so --help is instant
    from segcore.build import for_inference, model_for_checkpoint, placed
    from segcore.evaluation.evaluate import evaluate, image_counter

    world = distributed.init(recipe.run.device)
    try:
        if asked.split_note and world.is_main:
            print(asked.split_note, file=sys.stderr)
        # before it is loaded: a training may go on and replace it
        sha256 = file_hash(Path(options.checkpoint)) if world.is_main else ""
        num_classes = len(asked.dataset.classes.names)
        model = model_for_checkpoint(paper, recipe, num_classes, options.checkpoint, unsafe=options.unsafe)
        model = for_inference(placed(model, recipe.run, world.device).eval(), recipe.run)
        counter = None if options.format_only else image_counter(asked.dataset, asked.protocol, world.device)
        started = time.perf_counter()
        scores = evaluate(
            model,
            asked.dataset,
            asked.protocol,
            device=world.device,
            workers=recipe.data.workers,
            amp=recipe.run.amp,
            on_prediction=_writer(options, asked.dataset),
            with_labels=not options.format_only,
            show_progress=world.is_main,
            counter=counter,
        )
        if world.is_main:
            _report(asked, scores, counter, time.perf_counter() - started, sha256)
        distributed.barrier()  # the others must not end, and their connections with them, while the first one writes
        return None if options.format_only else scores
    finally:
        distributed.shutdown()


def _report(asked: _Test, scores: Scores, counter: ImageCounter | None, seconds: float, sha256: str) -> None:
    """Write the score and the counts and print the score, or say that predictions were written."""
    from segcore.console import PlainConsole

    console, options, count = PlainConsole(soft_wrap=True), asked.options, len(asked.dataset)
    rate = f"{count} images in {seconds:.1f} s ({count / seconds:.2f} images/s)"
    if counter is None:
        console.print(f"wrote {count} predictions for the {asked.dataset.name} server to {options.out}; {rate}")
        return
    path = _write_score(asked, scores, counter, sha256)
    published = _published(asked.paper, asked.name, asked.recipe, options.aug_test)
    note = f" (published {published:g})" if published is not None else ""
    what = f"{asked.paper.name} {asked.name}, {asked.dataset.name} {asked.recipe.data.test_split}"
    head = f"{what}, {asked.protocol.words}: {rate}\nscore: {path}{asked.why}"
    print_scores(console, scores, asked.dataset.classes, options.eval, head, note)


def _write_score(asked: _Test, scores: Scores, counter: ImageCounter, sha256: str) -> Path:
    """Write the score and the counts of every image beside it; return the path of the score."""
    from segcore.evaluation.image_counts import ImageCounts, counts_path, write_counts

    weights, recipe = Path(asked.options.checkpoint), asked.recipe
    data = ScoredImages.of(recipe.data, recipe.run.data)
    score = ScoreFile(
        weights=weights.name,
        sha256=sha256,
        paper=asked.paper.name,
        recipe=asked.name,
        data=data,
        images=len(asked.dataset),
        protocol=asked.protocol,
        amp=recipe.run.amp,
        time=now(),
        metric=defined(summarize(scores, asked.options.eval)),
    )
    path = score_path(asked.folder, weights, data, asked.protocol)
    counts = ImageCounts(
        score=score,
        images=tuple(asked.dataset.sample_name(index) for index in range(len(asked.dataset))),
        class_names=asked.dataset.classes.names,
        classes=counter.classes.cpu().numpy(),
        segments=counter.segments.cpu().numpy(),
        matrix=scores.counts[: len(scores.names)],
    )
    write_counts(counts_path(path), counts)
    write_score(path, score)
    return path


def _published(paper: Paper, name: str, recipe: Recipe, aug_test: bool) -> float | None:
    """Return the published mIoU, percent, unless the options ask for another data set or model than the recipe has."""
    own = paper.recipes.get(name)
    if own is None or own.data.dataset != recipe.data.dataset:
        return None
    start = {"pretrained": own.model.pretrained, "weights": own.model.weights}  # not what the network is
    if replace(recipe.model, **start) != own.model:
        return None
    return recipe.published.miou_ms if aug_test else recipe.published.miou
