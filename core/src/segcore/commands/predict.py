"""`<paper>-predict RECIPE CHECKPOINT INPUT...`: label maps and overlays of images and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from segcore.commands.parsing import parse_recipe
from segcore.commands.running import Command, command
from segcore.errors import InputError
from segcore.files import Output, check_opacity, check_outputs, make_folder
from segcore.paper import Paper
from segcore.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from segcore.predictor import Predictor


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
    aug_test: bool = False
    """Multi-scale + flip."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""


def predict_command(paper: Paper) -> Command:
    """Return the console script that predicts with a paper's networks."""
    program = f"{paper.name}-predict"

    def body(words: list[str]) -> int:
        request = parse_recipe(program, paper, words, PredictOptions)
        if request is not None:
            predict(paper, request.recipe, request.options)
        return 0

    return command(program, body)


def predict(paper: Paper, recipe: Recipe, options: PredictOptions) -> None:
    """Write label maps and overlays for the user's own images.

    Raises:
        InputError: for inputs that cannot be read, outputs that would replace them, or a checkpoint of another model.
    """
    from segcore.predictor import Predictor  # torch loads only here, so --help is instant

    check_opacity(options.opacity)
    predictor = Predictor.from_checkpoint(
        options.checkpoint, paper=paper, recipe=recipe, unsafe=options.unsafe, device=recipe.run.device
    )
    predictor = replace(predictor, protocol=recipe.evaluate.protocol(options.aug_test))
    run(predictor, list(options.inputs), Path(options.out), opacity=options.opacity, show_dir=options.show_dir)


class _Job(NamedTuple):
    """An image to predict, and the name of what is written for it (a relative path without suffix)."""

    source: Path
    name: str


def run(
    predictor: Predictor, inputs: Sequence[str], out_dir: Path, *, opacity: float = 0.5, show_dir: str = ""
) -> list[Path]:
    """Predict images, folders of images and videos, and say what was written.

    An image gives the label map OUT/NAME.png (palette PNG of class numbers) and an overlay, SHOW/NAME.jpg or, without
    `show_dir`, OUT/NAME_overlay.jpg. A video gives the overlay video OUT/NAME_overlay.mp4.

    Args:
        inputs: image files, folders (searched recursively; NAME is then the path inside) and video files.
        opacity: of the overlays, 0 to 1.

    Returns:
        The files written, in order.

    Raises:
        InputError: for an input that does not exist or cannot be read, an empty folder, outputs that collide with one
            another or with an input, or a folder that cannot be written.
    """
    from rich.console import Console
    from rich.progress import track

    from segcore.images.label_files import save_label, save_overlay
    from segcore.images.video import redraw_video
    from segcore.images.visualize import overlay
    from segcore.predictor import to_pixels

    check_opacity(opacity)
    jobs, videos = _sort_inputs(inputs, [out_dir, Path(show_dir or out_dir)])
    check_outputs(_outputs(jobs, videos, out_dir, show_dir), [*(job.source for job in jobs), *videos])
    make_folder(out_dir, "--out")
    if show_dir:
        make_folder(Path(show_dir), "--show-dir")
    written: list[Path] = []
    for job in track(jobs, "predicting", console=Console(stderr=True), transient=True, disable=len(jobs) < 2):
        image = to_pixels(job.source)
        label = predictor(image).label
        written.append(save_label(_label_path(job, out_dir), label, predictor.classes.palette))
        picture = _overlay_path(job, out_dir, show_dir)
        written.append(save_overlay(picture, image, label, predictor.classes.palette, opacity))

    def show(frame: np.ndarray) -> np.ndarray:
        return overlay(frame, predictor(frame).label, predictor.classes.palette, opacity)

    written += [redraw_video(video, _video_path(video, out_dir), show) for video in videos]
    parts = [f"{len(jobs)} label maps and overlays"] if jobs else []
    parts += [f"{len(videos)} overlay videos"] if videos else []
    Console().print(f"wrote {' and '.join(parts)} to {out_dir}", soft_wrap=True, highlight=False)
    return written


def _sort_inputs(inputs: Sequence[str], outputs: Sequence[Path]) -> tuple[list[_Job], list[Path]]:
    """Return the images and the videos among the inputs, folders expanded without output folders inside them."""
    from segcore.data.base import IMAGE_SUFFIXES, find_files
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


def _label_path(job: _Job, out_dir: Path) -> Path:
    return out_dir / f"{job.name}.png"


def _overlay_path(job: _Job, out_dir: Path, show_dir: str) -> Path:
    return Path(show_dir, f"{job.name}.jpg") if show_dir else out_dir / f"{job.name}_overlay.jpg"


def _video_path(video: Path, out_dir: Path) -> Path:
    return out_dir / f"{video.stem}_overlay.mp4"


def _outputs(jobs: Sequence[_Job], videos: Sequence[Path], out_dir: Path, show_dir: str) -> Iterator[Output]:
    """Yield every file that will be written."""
    for job in jobs:
        yield Output(_label_path(job, out_dir), job.source, "--out")
        yield Output(_overlay_path(job, out_dir, show_dir), job.source, "--show-dir" if show_dir else "--out")
    for video in videos:
        yield Output(_video_path(video, out_dir), video, "--out")
