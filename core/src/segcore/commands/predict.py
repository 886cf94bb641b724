"""`<paper>-predict RECIPE CHECKPOINT INPUT...`, `segcore predict CHECKPOINT INPUT...`: label maps and overlays."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from segcore.commands.parsing import Request, parse_checkpoint, parse_recipe
from segcore.commands.running import Command, command
from segcore.errors import InputError, check
from segcore.evaluation.score_files import file_hash
from segcore.files import Output, check_opacity, check_outputs, make_folder
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.header import require_checkpoint

if TYPE_CHECKING:
    import numpy as np

    from segcore.predictor import Predictor


_ABOUT = "Write label maps and overlays of images, folders of images and videos."


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to predict on."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights: ours (.safetensors) or a published .pth."""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT [INPUT ...]")]
    """Images, folders of images, or a video file."""
    out: str = "predictions"
    """Folder for label maps (palette PNG) and, for a video, the overlay video."""
    show_dir: str = ""
    """Folder for overlays; empty writes them beside the label maps."""
    opacity: float = 0.5
    """Opacity of the overlays, 0 to 1."""
    legend: bool = True
    """Put the names of the classes that occur below the overlay of an image."""
    aug_test: bool = False
    """Multi-scale + flip."""
    confidence: bool = False
    """Also write NAME_confidence.png: 255 times the probability of the class, 8-bit gray."""
    probabilities: bool = False
    """Also write NAME_probabilities.npy: of every class, float16 (H, W, K); 2 K bytes a pixel."""
    strips: bool = False
    """Predict pictures of any size in constant memory (extra `segcore[large]`): in sliding windows of --evaluate.crop
    and --evaluate.stride at their own resolution. Overlays are previews of at most 2048 pixels."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""


def predict_command(paper: Paper) -> Command:
    """Return the console script that predicts with a paper's networks."""
    program = f"{paper.name}-predict"
    return command(program, lambda words: _run(parse_recipe(program, paper, words, PredictOptions)))


def main(words: list[str]) -> int:
    """Run `segcore predict CHECKPOINT INPUT...`; returns the exit code.

    Raises:
        InputError: see `predict`.
    """
    return _run(parse_checkpoint("segcore predict", _ABOUT, words, PredictOptions))


def _run(asked: Request | None) -> int:
    if asked is not None:
        predict(asked.paper, asked.recipe, asked.options)
    return 0


def predict(paper: Paper, recipe: Recipe, options: PredictOptions) -> None:
    """Write label maps and overlays for the user's own images; several processes share them.

    Raises:
        InputError: for inputs that cannot be read, outputs that would replace them, or a checkpoint of another model.
    """
    require_checkpoint(Path(options.checkpoint))
    work = plan(options)
    from segcore import distributed
    from segcore.predictor import Predictor  # torch loads only here, so --help is instant

    world = distributed.init(recipe.run.device)
    distributed.barrier()  # nobody writes while another still lists its inputs; from here on, each works alone
    distributed.shutdown()
    predictor = Predictor.from_checkpoint(
        options.checkpoint, paper=paper, recipe=recipe, unsafe=options.unsafe, device=world.device
    )
    predictor = replace(predictor, protocol=recipe.evaluate.protocol(options.aug_test))
    run(predictor, work.share(world.rank, world.size), _made_with(paper, recipe, options))


def _made_with(paper: Paper, recipe: Recipe, options: PredictOptions) -> str:
    """Return what decides a prediction beside its image: equal where a second run would make the same files."""
    protocol = to_plain(recipe.evaluate.protocol(options.aug_test))
    network = [paper.name, to_plain(recipe.model), file_hash(Path(options.checkpoint))]
    drawn = [recipe.run.amp, options.opacity, options.legend, options.strips]
    settings = json.dumps([*network, protocol, *drawn], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()


class _Job(NamedTuple):
    """An image to predict, and the name of what is written for it: its relative path, or as `_told_apart` says."""

    source: Path
    name: str

    def stamp(self, made_with: str) -> str:
        """Return what a label map says of how it was made; another one where the image file has changed."""
        status = self.source.stat()
        return f"{made_with} {status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Plan:
    """What is predicted, and where the results go.

    An image gives the label map OUT/NAME.png (palette PNG of class numbers) and an overlay, SHOW/NAME.jpg or, without
    --show-dir, OUT/NAME_overlay.jpg. NAME has no suffix, except of images that differ in it alone. A video gives the
    overlay video OUT/NAME_overlay.mp4.
    """

    jobs: Sequence[_Job]
    videos: Sequence[Path]
    options: PredictOptions
    whose: str = ""
    """Which process does it, for what is said in the end; empty for the only one."""

    def share(self, rank: int, size: int) -> Plan:
        """Return what process `rank` of `size` does: every image and video is done by one."""
        whose = f" (process {rank + 1} of {size})" if size > 1 else ""
        return Plan(self.jobs[rank::size], self.videos[rank::size], self.options, whose)

    def label(self, job: _Job) -> Path:
        """Return where the label map of an image goes."""
        return Path(self.options.out, f"{job.name}.png")

    def overlay(self, job: _Job) -> Path:
        """Return where the overlay of an image goes."""
        folder = self.options.show_dir
        return Path(folder, f"{job.name}.jpg") if folder else Path(self.options.out, f"{job.name}_overlay.jpg")

    def maps(self, job: _Job) -> dict[str, Path]:
        """Return where confidence and probabilities of an image go, as far as they are asked for."""
        ends = {"confidence": ".png", "probabilities": ".npy"}
        wanted = [name for name in ends if vars(self.options)[name]]
        return {name: Path(self.options.out, f"{job.name}_{name}{ends[name]}") for name in wanted}

    def video(self, video: Path) -> Path:
        """Return where the overlay video goes."""
        return Path(self.options.out, f"{video.stem}_overlay.mp4")

    def outputs(self) -> Iterator[Output]:
        """Yield every file that will be written."""
        for job in self.jobs:
            yield Output(self.label(job), job.source, "--out")
            yield Output(self.overlay(job), job.source, "--show-dir" if self.options.show_dir else "--out")
            yield from (Output(path, job.source, "--out") for path in self.maps(job).values())
        for video in self.videos:
            yield Output(self.video(video), video, "--out")


def plan(options: PredictOptions) -> Plan:
    """Return what is to be done, its folders made; torch is not needed for it.

    Raises:
        InputError: for an input that does not exist, an empty folder, outputs that collide with one another or with an
            input, or a folder that cannot be written.
    """
    check_opacity(options.opacity)
    check(not (options.strips and options.aug_test), "--strips predicts at one scale; leave out --aug-test")
    folders = {"--out": options.out, "--show-dir": options.show_dir}
    found = Plan(*_sort_inputs(options.inputs, [Path(folder or options.out) for folder in folders.values()]), options)
    check_outputs(found.outputs(), [*(job.source for job in found.jobs), *found.videos])
    for option, folder in folders.items():
        if folder:
            make_folder(Path(folder), option)
    return found


def run(predictor: Predictor, work: Plan, made_with: str = "") -> list[Path]:
    """Predict images and videos, and say what was written; an input that cannot be used does not stop the others.

    Args:
        made_with: what decides a prediction beside its image; those that an earlier run made with the same are kept.
            Empty keeps none.

    Returns:
        The files written, in order.

    Raises:
        InputError: after all others are done, for the inputs that could not be predicted; at once for a file that
            cannot be written.
    """
    from rich.progress import track

    from segcore.console import PlainConsole

    console = PlainConsole(stderr=True)
    written: list[Path] = []
    faults: list[str] = []
    kept = 0
    is_quiet = len(work.jobs) < 2 or bool(work.whose)
    for job in track(work.jobs, "predicting", console=console, transient=True, disable=is_quiet):
        try:
            files = _predict_image(predictor, work, job, made_with)
        except _UnusableError as fault:
            faults.append(str(fault))
            continue
        written += files
        kept += not files
    for video in work.videos:
        try:
            written.append(_predict_video(predictor, work, video))
        except _UnusableError as fault:
            faults.append(str(fault))
    _report(work, written, kept)
    if faults:
        total = len(work.jobs) + len(work.videos)
        head = f"{len(faults)} of {total} inputs could not be predicted, the others were:\n" if total > 1 else ""
        raise InputError(head + "\n".join(faults))
    return written


class _UnusableError(Exception):
    """The sentence about an input that cannot be predicted."""


@contextmanager
def _unusable() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise _UnusableError(str(error)) from error


def _predict_image(predictor: Predictor, work: Plan, job: _Job, made_with: str) -> list[Path]:
    """Write label map and overlay of an image; nothing where an earlier run made them.

    The label map comes last, whole or not at all: where it is, all are.
    """
    from segcore.commands.predict_maps import Outputs, predict_in_strips, save_maps
    from segcore.failures import explained, testing_memory
    from segcore.images import label_files
    from segcore.predictor import to_pixels

    options, outputs = work.options, Outputs(label=work.label(job), overlay=work.overlay(job), **work.maps(job))
    with _unusable():
        try:
            stamp = job.stamp(made_with) if made_with else ""
        except OSError as error:
            raise InputError(f"cannot read the image {job.source}: {error.strerror or error}") from error
        is_there = all(path.is_file() for path in outputs.wanted())
        if stamp and is_there and label_files.made_with(outputs.label) == stamp:
            return []
        if options.strips:
            return predict_in_strips(
                predictor, job.source, outputs, options.opacity, legend=options.legend, made_with=stamp
            )
        image = to_pixels(job.source, predictor.max_pixels)
        with explained(memory=testing_memory(str(job.source), (image.shape[0], image.shape[1]))):
            label, probabilities = predictor(image, with_probabilities=outputs.needs_probabilities)
    label_files.save_overlay(outputs.overlay, image, label, predictor.classes, options.opacity, legend=options.legend)
    if probabilities is not None:
        save_maps(outputs, probabilities)
    label_files.save_label(outputs.label, label, predictor.classes.palette, stamp)
    return outputs.wanted()


def _predict_video(predictor: Predictor, work: Plan, video: Path) -> Path:
    from segcore.failures import explained, testing_memory
    from segcore.images.video import redraw_video
    from segcore.images.visualize import overlay

    def show(frame: np.ndarray) -> np.ndarray:
        with explained(memory=testing_memory(f"of {video}", (frame.shape[0], frame.shape[1]))):
            label = predictor(frame).label
        return overlay(frame, label, predictor.classes.palette, work.options.opacity)

    with _unusable():
        return redraw_video(video, work.video(video), show)


def _report(work: Plan, written: Sequence[Path], kept: int) -> None:
    """Say what was written."""
    from segcore.console import PlainConsole

    labels = {work.label(job) for job in work.jobs}
    images, videos = sum(path in labels for path in written), sum(path.suffix == ".mp4" for path in written)
    parts = [f"{images} label maps and overlays"] if images else []
    parts += [f"{videos} overlay videos"] if videos else []
    told = " and ".join(parts) or "nothing"
    before = f"; {kept} were there from an earlier run" if kept else ""
    PlainConsole(soft_wrap=True).print(f"wrote {told} to {work.options.out}{work.whose}{before}")


def _told_apart(jobs: Sequence[_Job]) -> list[_Job]:
    """Return the jobs under names of their own: images that differ in their suffix alone, x.jpg and x.png, keep it."""
    counts = Counter(job.name for job in jobs)
    return [job._replace(name=f"{job.name}{job.source.suffix}") if counts[job.name] > 1 else job for job in jobs]


def _sort_inputs(inputs: Sequence[str], outputs: Sequence[Path]) -> tuple[list[_Job], list[Path]]:
    """Return the images and the videos among the inputs, folders expanded without output folders inside them."""
    from segcore.data.listing import IMAGE_SUFFIXES, find_files
    from segcore.images.video import VIDEO_SUFFIXES

    jobs: list[_Job] = []
    videos: list[Path] = []
    if not inputs:
        raise InputError("nothing to predict: give image files, folders of images or a video file")
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inner = [folder.resolve() for folder in outputs if path.resolve() in folder.resolve().parents]
            names = [
                name
                for name in find_files(path, IMAGE_SUFFIXES)
                if not any(folder in (path / name).resolve().parents for folder in inner)
            ]
            if not names:
                raise InputError(f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            jobs += [_Job(path / name, str(Path(name).with_suffix(""))) for name in names]
        elif not path.exists():
            raise InputError(f"the input {path} does not exist; give image files, folders of images or a video file")
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            jobs.append(_Job(path, path.stem))
        else:
            known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            raise InputError(f"{path} is neither an image nor a video by its suffix (known: {known})")
    return _told_apart(list(dict.fromkeys(jobs))), list(dict.fromkeys(videos))
