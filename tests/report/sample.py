"""A run and a page whose names try to break them."""

from __future__ import annotations

import numpy as np

from segcore.pages.charts import Series
from segcore.recipe import Published
from segcore.report.run_report import Picture, RunReport

NAMES = ["sky", "<script>alert(1)</script>", 'a "quoted" & long name']
PALETTE = [[10, 200, 30], [0, 0, 255], [250, 250, 250]]
HOSTILE_NAMES = (
    "sky",
    "<script>alert(1)</script>",
    "<b>bold</b><br>%{y} $x^2$",
    "[/b] [red]markup",
    "x" * 240,
    "x" * 120 + "y" + "x" * 119,
    "long words " * 22,
    "12",
    "7",
    "",
)


def sample_report(names: list[str] | tuple[str, ...] = NAMES, seed: int = 0) -> RunReport:
    """Return a run of a few classes: class i has IoU i / 4 (at most 1), only class 1 has one at multi-scale + flip."""
    rng = np.random.default_rng(seed)
    count = len(names)
    label = rng.integers(0, count, (24, 32)).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.75, label, 0).astype(np.uint8)
    label[:4] = 255
    image = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None] * 7, (24, 32, 3)).copy()
    palette = [*PALETTE, *rng.integers(0, 256, (count, 3)).tolist()][:count]
    return RunReport(
        title="Paper <2024>",
        paper="cgrseg",
        recipe_name="toy",
        dataset="toy (val)",
        date="2026-01-01",
        versions={"torch": "2.9"},
        class_names=names,
        palette=np.array(palette, np.uint8),
        scores={"mIoU": 0.6154, "aAcc": 0.9, **{f"IoU.{name}": min(0.25 * i, 1.0) for i, name in enumerate(names)}},
        scores_from="single scale",
        scores_ms={"mIoU": 0.6288, f"IoU.{names[0]}": None, f"IoU.{names[1]}": 0.5},
        published=Published(miou=43.6),
        iterations=400,
        num_images=50,
        parameters=4_350_000,
        seconds=190.0,
        losses=(Series("loss", tuple((float(i), 2.0 / i) for i in range(1, 60))),),
        mious=(Series("mIoU", ((100.0, 0.4), (200.0, 0.6))),),
        rates=(Series("lr", ()),),
        gallery=(Picture("<i>street</i>", image, label, prediction),),
        recipe='{"note": "</pre><b>"}',
    )
