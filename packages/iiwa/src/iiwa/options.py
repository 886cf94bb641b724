"""Options of IIWA, and its variants: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from segcore.errors import check
from segcore.recipe import Model
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, POSITIVE

_SWIN = ("swin_tiny", "swin_small", "swin_base", "swin_large", "swin_s3")  # version 1
_STAGES = 4
_OUTPUT_STRIDE = 32  # of every backbone that is not dilated


@dataclass(frozen=True, kw_only=True)
class IIWAModel(Model):
    """IIWA on any backbone with four feature levels.

    Neck and decoder were never released: what the release does not fix is an option here (iiwa/PAPER 3.8 and 3.9).
    """

    merge_strides: Annotated[tuple[int, int, int, int], AT_LEAST_1] = (4, 2, 1, 1)
    """Swin: stride of the patches and of the three mergings; published: the last two keep the size."""
    backbone_width: Annotated[int, NOT_NEGATIVE] = 0
    """Swin: channels of the first level; 0 keeps those of --model.backbone."""
    backbone_depths: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Swin: blocks of each stage; empty keeps those of --model.backbone."""
    backbone_heads: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Swin: heads of each stage; empty keeps those of --model.backbone."""
    backbone_window: Annotated[int, NOT_NEGATIVE] = 0
    """Swin: side of the windows; 0 keeps that of --model.backbone."""
    backbone_drop_path: Annotated[float, BELOW_1] = 0.3
    """Swin: drop-path rate of the last block."""
    output_stride: Literal[8, 16, 32] = 32
    """Backbone other than Swin: largest stride; 8 gives 4, 8, 8, 8, as Swin's (dilated; ResNets and relatives)."""
    fusion: Literal["1", "2"] = "2"
    """Fusion block of the neck (published name out_type): 2 is cross-IIWA, 1 an early alternative."""
    fusion_rounds: Annotated[int, AT_LEAST_1] = 1
    """Rounds of the cascade of three fusions (published name cascade_num)."""
    fusion_window: Annotated[tuple[int, int], AT_LEAST_1] = (4, 4)
    """Key window of the fusions, height and width; the query's is larger by the ratio of the strides."""
    fusion_heads: Annotated[tuple[int, int, int], AT_LEAST_1] = (4, 8, 16)
    """Heads of the fusions at the first, second and third level."""
    fusion_dropout: Annotated[float, BELOW_1] = 0.1
    """Dropout of the fusions."""
    embed_dim: Annotated[int, AT_LEAST_1] = 256
    """Channels of the query stem, read by the auxiliary classifier."""
    query_dim: Annotated[int, AT_LEAST_1] = 256
    """Channels of the decoder's blocks. (The other reading of the released configs, embed_dim, matters for S only.)"""
    decoder_depth: Annotated[int, AT_LEAST_1] = 3
    """Stages of the decoder; each has one self-IIWA and one cross-IIWA block."""
    decoder_heads: Annotated[int, AT_LEAST_1] = 8
    """Heads of the decoder's attentions."""
    decoder_window: Annotated[tuple[int, int], AT_LEAST_1] = (8, 8)
    """Window of the decoder, height and width; the same for query and memory."""
    decoder_mlp_ratio: Annotated[float, POSITIVE] = 4.0
    """Hidden width of the decoder's MLPs by their input's."""
    decoder_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout after the decoder's linear layers."""
    decoder_attn_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout of the decoder's intra-window attention."""
    decoder_drop_path: Annotated[float, BELOW_1] = 0.2
    """Drop-path rate of the decoder's last stage."""
    head_scale: Annotated[int, AT_LEAST_1] = 4
    """Factor by which the sub-pixel head enlarges the last level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_backbone()
        for option, factor in (
            ("", 4),
            (" --model.decoder-heads", self.decoder_heads),
            (" --model.head-scale", self.head_scale),
        ):
            is_multiple = self.query_dim % factor == 0
            check(is_multiple, f"--model.query-dim must be a multiple of{option} {factor}, got {self.query_dim}")

    def _check_backbone(self) -> None:
        for option, values in (("depths", self.backbone_depths), ("heads", self.backbone_heads)):
            is_valid = len(values) in (0, _STAGES)
            check(is_valid, f"--model.backbone-{option} needs {_STAGES} positive numbers or none, got {values}")
        check(
            self.output_stride == _OUTPUT_STRIDE or not self.backbone.startswith(_SWIN),
            f"--model.output-stride {self.output_stride} is not for {self.backbone}; --model.merge-strides "
            f"sets its strides (4 2 1 1 ends at 8); give --model.output-stride {_OUTPUT_STRIDE}",
        )
        is_valid = set(self.merge_strides[1:]) <= {1, 2}
        check(is_valid, f"--model.merge-strides needs a patch size and three strides 1 or 2, got {self.merge_strides}")
        widths = [self.backbone_width * 2**i for i in range(_STAGES)] if self.backbone_width else []
        for width, heads in zip(widths, self.backbone_heads, strict=False):
            check(
                width % heads == 0,
                f"--model.backbone-heads {self.backbone_heads} must divide the stages' channels {widths}",
            )

    def backbone_changes(self) -> dict[str, Any]:
        """Return what `create_backbone` is given beside the name."""
        if not self.backbone.startswith(_SWIN):
            return {"output_stride": self.output_stride} if self.output_stride != _OUTPUT_STRIDE else {}
        changes = {
            "merge_strides": self.merge_strides,
            "drop_path_rate": self.backbone_drop_path,
            "embed_dim": self.backbone_width,
            "depths": self.backbone_depths,
            "num_heads": self.backbone_heads,
            "window_size": self.backbone_window,
        }
        return {name: value for name, value in changes.items() if value}


IIWA_S = IIWAModel(backbone="swin_small_patch4_window7_224.ms_in1k", embed_dim=384, decoder_depth=4)
IIWA_B = IIWAModel(backbone="swin_base_patch4_window12_384.ms_in22k")
IIWA_L = IIWAModel(
    backbone="swin_large_patch4_window12_384.ms_in22k", embed_dim=384, query_dim=384, decoder_drop_path=0.3
)
