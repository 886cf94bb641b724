"""Published tensor names that are timm's: HRNet's (memorynet/PAPER 6), DeiT's (unept/PAPER 6)."""

from __future__ import annotations

# Our name -> timm's: a wrapped network is called `model` by us. Names of papers keep the `backbone.` before them.
RENAMES: tuple[tuple[str, str], ...] = ((r"(^|backbone\.)model\.", r"\1"),)
