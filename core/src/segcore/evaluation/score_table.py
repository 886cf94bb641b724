"""Scores as a table for the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from segcore.evaluation import METRICS

if TYPE_CHECKING:
    from segcore.data.base import ClassTable
    from segcore.evaluation.metrics import Scores


def score_table(scores: Scores, classes: ClassTable, metrics: Sequence[str] = ("mIoU",)) -> Table:
    """Return the scores of every class, and their means, in percent as a table for the console.

    Args:
        metrics: mIoU, mDice, mFscore: which columns.
    """
    columns = list(dict.fromkeys(name for metric in metrics for name in METRICS[metric]))
    table = Table("class", title=f"{100 * scores.aacc:.2f} % of the labeled pixels are right (aAcc)")
    for name in columns:
        table.add_column(name, justify="right")
    per_class = [scores.per_class(name) for name in columns]
    for i, name in enumerate(classes.names):
        table.add_row(name, *(_percent(values[i]) for values in per_class), end_section=i + 1 == len(classes.names))
    with np.errstate(invalid="ignore"):
        means = [values[~np.isnan(values)] for values in per_class]
    table.add_row("mean", *(_percent(values.mean() if len(values) else np.nan) for values in means))
    return table


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f}"
