"""Options that people know from elsewhere: from the originals of the papers and from other training code."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from segcore.errors import InputError

_LAUNCH = "start several processes with torchrun --nproc-per-node N -m PAPER.train (or .test, .predict)"
_RECIPE = "name a recipe as the first word, and change it by --section.field VALUE"
_PLACE = "give the checkpoint as a word, without an option; to train from one, --run.load-from"
_TABLE: dict[str, tuple[str, ...]] = {
    "--schedule.iterations": ("iters", "max-iters", "total-iters", "num-iters", "steps", "max-steps"),
    "--schedule.epochs": ("max-epochs", "num-epochs", "total-epochs"),
    "--schedule.warmup": ("warmup-iters", "warmup-steps"),
    "--data.batch (images of all processes together)": (
        *("batch-size", "train-batch-size", "bs", "samples-per-gpu", "imgs-per-gpu", "images-per-gpu"),
    ),
    "--data.workers": ("num-workers", "workers-per-gpu"),
    "--data.dataset": ("datasetname",),
    "--data.ignore": ("ignore-index", "ignore-label"),
    "--run.data": ("data-dir", "data-path", "root", "img-dir"),
    "--run.work-dir": ("output", "output-dir", "out-dir", "save-dir", "checkpointspath", "exp-name"),
    "--run.resume": ("auto-resume",),
    "--run.eval-interval 0 (at the end only)": ("no-validate", "noeval"),
    "--run.amp bf16": ("fp16", "bf16", "mixed-precision"),
    "--optim.lr": ("learning-rate", "base-lr"),
    "--optim.weight-decay": ("wd",),
    "--optim.kind": ("optimizer", "opt"),
    "--augment.crop": ("crop-size", "input-size", "img-size"),
    "--model.backbone": ("arch", "backbonename", "encoder"),
    "--eval": ("eval-metric", "eval-metrics", "metric", "metrics"),
    "--aug-test": ("tta", "multi-scale", "ms-test", "flip-test"),
    "--show-dir DIR": ("show",),
    _LAUNCH: (
        *("gpus", "gpu", "gpu-ids", "gpu-id", "ngpu", "num-gpus", "launcher", "local-rank", "nproc-per-node"),
        *("world-size", "gpu-collect", "tmpdir"),
    ),
    _RECIPE: ("config", "cfg", "config-file", "cfg-file", "cfgfilepath", "cfg-options", "options", "modelname"),
    _PLACE: ("checkpoint", "ckpt", "weights", "model-path"),
}
ELSEWHERE = {f"--{name}": ours for ours, names in _TABLE.items() for name in names}
"""An option of others -> what is here in its place."""


def explain_foreign(words: Sequence[str], known: Collection[str]) -> None:
    """Refuse an option that is not known here but elsewhere, or known with its section; others are left to tyro.

    Args:
        known: options with hyphens, as in --run.work-dir.

    Raises:
        InputError: naming the option and what is here in its place.
    """
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            ours = ELSEWHERE.get(name) or " or ".join(sorted(one for one in known if one.endswith(f".{name[2:]}")))
            if ours:
                raise InputError(f"there is no {name} here; {_sentence(ours, known)}")


def _sentence(ours: str, known: Collection[str]) -> str:
    if not ours.startswith("--"):
        return ours
    return f"it is {ours}{'' if ours.split()[0] in known else ' of <paper>-test'}"
