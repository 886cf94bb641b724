"""Chosen layers of a plain vision transformer, as they are: memorynet/PAPER 2 and unept/PAPER 2.1.

No pyramid and no final norm: every level is the residual stream behind one block, at the stride of the patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import timm.models
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.pretrained import create_timm_model
from segcore.errors import InputError
from segcore.weights.files import read_checkpoint

_WITH_TABLE = ("vision_transformer", "deit")
"""timm's files whose models look positions up in a table and nothing else."""

# Our name -> that of the framework that MemoryNet's checkpoints come from (memorynet/PAPER 6); the names of DeiT, which
# UN-EPT publishes, are those of `timm_names.py`. Names of papers keep the `backbone.` before them.
MEMORYNET_RENAMES: tuple[tuple[str, str], ...] = (
    (r"(^|backbone\.)model\.(?=cls_token$|pos_embed$)", r"\1"),
    (r"(^|backbone\.)model\.patch_embed\.proj\.", r"\1patch_embed.projection."),
    (r"(^|backbone\.)model\.blocks\.", r"\1layers."),
    (r"((?:^|backbone\.)layers\.\d+)\.norm([12])\.", r"\1.ln\2."),
    (r"((?:^|backbone\.)layers\.\d+)\.attn\.qkv\.(?=weight$|bias$)", r"\1.attn.attn.in_proj_"),
    (r"((?:^|backbone\.)layers\.\d+)\.attn\.proj\.", r"\1.attn.attn.out_proj."),
    (r"((?:^|backbone\.)layers\.\d+)\.mlp\.fc1\.", r"\1.ffn.layers.0.0."),
    (r"((?:^|backbone\.)layers\.\d+)\.mlp\.fc2\.", r"\1.ffn.layers.1."),
)

Resize = Literal["antialiased", "bicubic", "bilinear"]


def resize_positions(table: Tensor, size: tuple[int, int], mode: Resize, stored: tuple[int, int]) -> Tensor:
    """Resize a table of position embeddings to another grid of patches (align_corners False).

    Args:
        table: embeddings of class and other extra tokens, which are kept, then of the patches, row by row.
        size: height and width of the grid wanted.
        mode: "antialiased" is bicubic with a low-pass filter where the grid shrinks, timm's own; "bicubic" and
            "bilinear" are without. "bilinear" also leaves a table alone that has the right number of entries, even if
            its grid has another shape (memorynet/PAPER 2).
        stored: height and width of the table's grid.

    Shapes:
        (1, P + stored, C) -> (1, P + size, C)
    """
    num_extra = table.shape[1] - stored[0] * stored[1]
    if size == stored or (mode == "bilinear" and size[0] * size[1] == stored[0] * stored[1]):
        return table
    grid = rearrange(table[:, num_extra:], "one (h w) c -> one c h w", h=stored[0])
    kernel = "bilinear" if mode == "bilinear" else "bicubic"
    grid = F.interpolate(grid, size=size, mode=kernel, align_corners=False, antialias=mode == "antialiased")
    return torch.cat([table[:, :num_extra], rearrange(grid, "one c h w -> one (h w) c")], dim=1)


class TransformerLevels(Backbone):
    """The residual stream behind chosen blocks of a plain transformer, all at the stride of the patches.

    Images are zero-padded at bottom and right to whole patches; the maps cover the padding too, as in the published
    models, so `legal_size` asks for none.

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`; a file's position table may be of any square grid.
        layers: blocks whose output is a level, counted from one, rising; later blocks are left out.
        img_size: height and width, pixels, that the position table is made for; None keeps that of the weights.
        position_resize: how the table is brought from the weights to `img_size`, and from there to an image of another
            size, see `resize_positions`; models with other positions (EVA, DINOv3) keep timm's way.
        changes: further options of timm's model.
    Shapes:
        (B, 3, H, W) -> one (B, C, ceil(H / patch), ceil(W / patch)) per layer

    Raises:
        InputError: layers that the model has not, an `img_size` below a patch, and what `create_backbone` refuses.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str = "",
        *,
        layers: Sequence[int],
        img_size: int | None = None,
        position_resize: Resize = "antialiased",
        **changes: Any,
    ) -> None:
        super().__init__()
        self.position_resize: Resize = position_resize
        options = {"num_classes": 0, "dynamic_img_size": True, **changes}
        is_resized = timm.models.is_model_in_modules(name, _WITH_TABLE) and bool(pretrained or weights)
        wanted = {} if img_size is None else {"img_size": img_size}
        built = _stored_size(weights) if is_resized else wanted
        self.model = create_timm_model(name, pretrained, weights, **options, **built)
        info: Any = self.model.feature_info[0]
        self.patch = info["reduction"]
        if img_size is not None:
            _check_size(name, img_size, self.patch)
            if is_resized:
                self._set_size(img_size)
        self._has_table = isinstance(self.model, VisionTransformer) and self.model.pos_embed is not None
        self._indices = _indices(name, layers, len(self.model.blocks))
        self.model.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)
        self.channels = (info["num_chs"],) * len(layers)
        self.strides = (self.patch,) * len(layers)

    def _set_size(self, img_size: int) -> None:
        """Bring the position table from the size of the weights to `img_size` by our rule, once."""
        table, stored = self.model.pos_embed, self.model.patch_embed.grid_size
        self.model.set_input_size(img_size=(img_size, img_size))
        if table is not None:
            with torch.no_grad():
                table = resize_positions(table, self.model.patch_embed.grid_size, self.position_resize, stored)
            self.model.pos_embed = nn.Parameter(table)

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        if not self._has_table:
            return self.model.forward_intermediates(image, indices=self._indices, intermediates_only=True)
        patches = self.model.patch_embed(image)  # (B, h, w, C)
        grid = (patches.shape[1], patches.shape[2])
        tokens = self.model.norm_pre(self.model.patch_drop(self._with_positions(patches)))
        levels = []
        for i, block in enumerate(self.model.blocks):
            tokens = block(tokens)  # (B, P + h*w, C)
            if i in self._indices:
                stream = tokens[:, self.model.num_prefix_tokens :]
                levels.append(rearrange(stream, "b (h w) c -> b c h w", h=grid[0]))
        return levels

    def _with_positions(self, patches: Tensor) -> Tensor:
        """Put class and other extra tokens in front of the patches and add the positions.

        Shapes:
            (B, h, w, C) -> (B, P + h*w, C)
        """
        model = self.model
        grid = (patches.shape[1], patches.shape[2])
        table = resize_positions(model.pos_embed, grid, self.position_resize, model.patch_embed.grid_size)
        extra = [model.cls_token, getattr(model, "dist_token", None), model.reg_token]
        # not len(): torch.export would fix the batch size
        extra = [token.expand(patches.shape[0], -1, -1) for token in extra if token is not None]
        tokens = rearrange(patches, "b h w c -> b (h w) c")
        if model.no_embed_class:  # the table has no entries for the extra tokens
            return model.pos_drop(torch.cat([*extra, tokens + table], dim=1))
        return model.pos_drop(torch.cat([*extra, tokens], dim=1) + table)


def _check_size(name: str, img_size: int, patch: int) -> None:
    if img_size < patch:
        raise InputError(
            f"--model.backbone {name} cuts images into patches of {patch} pixels; its position table needs an image "
            f"side of at least that, got {img_size}"
        )


def _indices(name: str, layers: Sequence[int], depth: int) -> list[int]:
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] > depth:
        raise InputError(
            f"--model.backbone {name} has the layers 1 to {depth}; expected some of them, rising, got {list(layers)}"
        )
    return [layer - 1 for layer in layers]


def _stored_size(weights: str) -> dict[str, int]:
    """Return timm's option for the image size that a file's position table is made for; empty if it does not say."""
    if not weights:
        return {}
    tensors = read_checkpoint(weights).tensors
    table, patches = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if table is None or patches is None or table.ndim != 3 or patches.ndim != 4:
        return {}
    # square grids only; the few extra tokens do not reach the next square
    return {"img_size": math.isqrt(table.shape[1]) * patches.shape[-1]}
