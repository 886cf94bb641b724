"""From a network and images to scores."""

METRICS: dict[str, tuple[str, ...]] = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}
"""Metric -> the per-class columns it averages and shows (docs/protocol 4)."""
CITYSCAPES = "cityscapes"
"""Value of --eval for the scores of the Cityscapes tools: averages over classes and categories."""
