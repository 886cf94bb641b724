"""Tensor names of ResNets: OpenMMLab's, which ECFD, UN-EPT and MemoryNet publish, and timm's, which are ours."""

from __future__ import annotations

from collections.abc import Collection

from segcore.weights.names import NameMap

# Our name -> OpenMMLab's (ecfd/PAPER 2, memorynet/PAPER 6, unept/PAPER 2.2); the stem of ResNet-C counts convolutions,
# norms and activations as one list. Names of papers keep the `backbone.` before them.
RENAMES: tuple[tuple[str, str], ...] = (
    (r"(^|backbone\.)model\.conv1\.(?=\d)", r"\1stem."),
    (r"(^|backbone\.)model\.bn1\.", r"\1stem.7."),
    (r"(^|backbone\.)model\.", r"\1"),
)
OPENMMLAB = NameMap(RENAMES, dropped=(r"fc\..*",))
"""From our names to those of OpenMMLab's ImageNet files, e.g. `resnet50_v1c`."""


def is_openmmlab(names: Collection[str]) -> bool:
    """Return whether a file of a ResNet-C has OpenMMLab's names; all other ResNets have the same names everywhere."""
    return "stem.0.weight" in names
