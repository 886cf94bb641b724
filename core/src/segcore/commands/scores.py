"""The metrics that a command is asked for with --eval, and the printing of their values, the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segcore.errors import InputError
from segcore.evaluation import CITYSCAPES, METRICS

if TYPE_CHECKING:
    from segcore.console import PlainConsole
    from segcore.data.base import ClassTable
    from segcore.evaluation.metrics import Scores


def check_metrics(names: Sequence[str], dataset: str) -> None:
    """Refuse metrics that are unknown, or that a data set does not have.

    Raises:
        InputError: naming --eval.
    """
    known = (*METRICS, CITYSCAPES)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"--eval {' '.join(unknown)} is unknown; choose from {', '.join(known)}")
    if CITYSCAPES in names and dataset != CITYSCAPES:
        raise InputError(f"--eval cityscapes scores the data set cityscapes, not {dataset}; choose mIoU")


def summarize(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    """Return what --eval asks for, 0 to 1: averages and scores of classes, by their names."""
    from segcore.evaluation.label_folder import cityscapes_summary

    summary = scores.summary(_metrics(names))
    if CITYSCAPES in names:
        summary |= {f"cityscapes.{key}": value for key, value in cityscapes_summary(scores).items()}
    return summary


def print_scores(
    console: PlainConsole, scores: Scores, classes: ClassTable, names: Sequence[str], head: str, note: str = ""
) -> None:
    """Print the table of classes, `head`, then one line per score.

    Args:
        names: as given to --eval; mIoU comes last where it was not asked for.
        note: what stands behind the mIoU.
    """
    from segcore.evaluation.label_folder import cityscapes_summary
    from segcore.evaluation.score_table import score_table

    metrics = _metrics(names)
    console.print(score_table(scores, classes, metrics))
    console.print(head)
    if CITYSCAPES in names:
        for key, value in cityscapes_summary(scores).items():
            console.print(f"{key} {100 * value:.2f}")
    for metric in dict.fromkeys((*metrics, "mIoU")):
        value = scores.summary((metric,))[metric]
        console.print(f"{metric} {100 * value:.2f}{note if metric == 'mIoU' else ''}")


def _metrics(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in METRICS) or ("mIoU",)
