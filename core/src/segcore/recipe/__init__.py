"""What describes a complete run. The words of the schema are given out here; importing this loads no torch."""

from segcore.recipe.schema import (
    AMP,
    MAX_PIXELS,
    MS_RATIOS,
    Augment,
    Data,
    Evaluate,
    Loss,
    Model,
    Optim,
    Published,
    Recipe,
    Run,
    Schedule,
)

__all__ = [
    "AMP",
    "MAX_PIXELS",
    "MS_RATIOS",
    "Augment",
    "Data",
    "Evaluate",
    "Loss",
    "Model",
    "Optim",
    "Published",
    "Recipe",
    "Run",
    "Schedule",
]
