"""`<paper>-predict RECIPE CHECKPOINT INPUT...`, `segcore predict CHECKPOINT INPUT...`: label maps and overlays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from segcore.commands.parsing import Request, parse_checkpoint, parse_recipe
from segcore.commands.running import Command, command
from segcore.errors import InputError, check
from segcore.files import Output, check_opacity, check_outputs, make_folder
from segcore.paper import Paper
from segcore.recipe import Recipe
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
    and --evaluate.stride at their own resolution. Overlays are previews of at most 4096 pixels."""
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
    run(predictor, work.share(world.rank, world.size))


class _Job(NamedTuple):
    """An image to predict, and the name of what is written for it (a relative path without suffix)."""

    source: Path
    name: str


@dataclass(frozen=True)
class Plan:
    """What is predicted, and where the results go.

    An image gives the label map OUT/NAME.png (palette PNG of class numbers) and an overlay, SHOW/NAME.jpg or, without
    --show-dir, OUT/NAME_overlay.jpg. A video gives the overlay video OUT/NAME_overlay.mp4.
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


def run(predictor: Predictor, work: Plan) -> list[Path]:
    """Predict images and videos, and say what was written.

    Returns:
        The files written, in order.

    Raises:
        InputError: for an input that cannot be read, or a file that cannot be written.
    """
    from rich.progress import track

    from segcore.commands.predict_maps import Outputs, predict_in_strips, save_maps
    from segcore.console import PlainConsole
    from segcore.images.label_files import save_label, save_overlay
    from segcore.images.video import redraw_video
    from segcore.images.visualize import overlay
    from segcore.predictor import to_pixels

    palette, opacity = predictor.classes.palette, work.options.opacity
    written: list[Path] = []
    is_quiet = len(work.jobs) < 2 or bool(work.whose)
    for job in track(work.jobs, "predicting", console=PlainConsole(stderr=True), transient=True, disable=is_quiet):
        outputs = Outputs(label=work.label(job), overlay=work.overlay(job), **work.maps(job))
        if work.options.strips:
            written += predict_in_strips(predictor, job.source, outputs, opacity, legend=work.options.legend)
            continue
        image = to_pixels(job.source, predictor.max_pixels)
        label, probabilities = predictor(image, with_probabilities=outputs.needs_probabilities)
        written.append(save_label(work.label(job), label, palette))
        written.append(
            save_overlay(work.overlay(job), image, label, predictor.classes, opacity, legend=work.options.legend)
        )
        written += save_maps(outputs, probabilities) if probabilities is not None else []

    def show(frame: np.ndarray) -> np.ndarray:
        return overlay(frame, predictor(frame).label, palette, opacity)

    written += [redraw_video(video, work.video(video), show) for video in work.videos]
    parts = [f"{len(work.jobs)} label maps and overlays"] if work.jobs else []
    parts += [f"{len(work.videos)} overlay videos"] if work.videos else []
    told = " and ".join(parts) or "nothing"
    PlainConsole(soft_wrap=True).print(f"wrote {told} to {work.options.out}{work.whose}")
    return written


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
    return jobs, videos
