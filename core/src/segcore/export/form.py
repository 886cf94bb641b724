"""What an exported graph takes and gives, and the network in that form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.images.transforms import MEAN, STD, multiple_size
from segcore.segmentor import Segmentor, Size, size_of

Output = Literal["logits", "label", "coarse"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What an exported graph takes and gives.

    Attributes:
        size: height and width of the images, the only ones it then takes; None takes any.
        normalize: takes RGB bytes and normalizes them; else it takes normalized RGB.
        output: "logits" (B, K, H, W); "label" (B, H, W), the class numbers; "coarse", the logits at the head's stride,
            as inference keeps them, beside the size (height, width) to which the image was padded at right and bottom.
        padded: coarse: the size to which all images are padded; None pads each to what the network needs.
        divisor: pads both sides to a multiple of it besides.
    """

    size: Size | None = None
    normalize: bool = False
    output: Output = "logits"
    padded: Size | None = None
    divisor: int = 1

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return ["coarse", "padded_size"] if self.output == "coarse" else [self.output]


class ExportedNetwork(nn.Module):
    """A network in a form: `before`, the network on what that gives, `after`.

    The parts are exported apart, because the padded size is then a size like any other to the network: as an expression
    in the image's size it would be carried through every layer.

    Shapes:
        image (B, 3, H, W): uint8 RGB where the form normalizes, else normalized RGB of the network's type
        -> see `Form.output`
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, model: Segmentor, form: Form) -> None:
        super().__init__()
        self.model, self.form = model, form
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        mean = torch.tensor(MEAN, device=self.device)
        inverse_std = (1 / torch.tensor(STD, dtype=torch.float64)).float().to(self.device)
        self.register_buffer("mean", mean.reshape(3, 1, 1), persistent=False)
        self.register_buffer("inverse_std", inverse_std.reshape(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.after(self.model(self.before(image)), image)

    def before(self, image: Tensor) -> Tensor:
        """Normalize and pad: (B, 3, H, W) -> (B, 3, h, w) of a legal size."""
        height, width = size_of(image)
        padded = self.padded(height, width)
        return F.pad(self._normalized(image), (0, padded[1] - width, 0, padded[0] - height))

    def after(self, coarse: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, given the logits (B, K, h', w') at the head's stride and the image, whose size counts."""
        size = size_of(image)
        return self._outputs(coarse, self.padded(*size), size)

    def of_legal(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what `forward` does of an image whose size is legal: there is nothing to pad."""
        size = size_of(image)
        return self._outputs(self.model(self._normalized(image)), size, size)

    def padded_size(self, image: Tensor) -> Tensor:
        """Return `padded` of an image as a tensor (2,) int64."""
        return _as_tensor(self.padded(*size_of(image)))

    def padded(self, height: int, width: int) -> Size:
        """Return the size that the network sees of an image's."""
        return self.model.legal_size(*multiple_size(self.form.padded or (height, width), self.form.divisor))

    def _normalized(self, image: Tensor) -> Tensor:
        if not self.form.normalize:
            return image
        return ((image.float() - self.mean) * self.inverse_std).to(self.dtype)

    def _outputs(self, coarse: Tensor, padded: Size, size: Size) -> tuple[Tensor, ...]:
        if self.form.output == "coarse":
            return coarse, _as_tensor(padded)
        logits = F.interpolate(coarse, size=padded, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
        if self.form.output == "logits":
            return (logits,)
        return (logits.argmax(dim=1).to(torch.uint8 if self.model.num_classes <= 255 else torch.int16),)

    def example(self, size: Size, batch: int = 2, seed: int = 0) -> Tensor:
        """Return noise of the form's input type, as of a picture."""
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8).to(self.device)
        if self.form.normalize:
            return pixels
        return ((pixels.float() - self.mean) * self.inverse_std).to(self.dtype)


def _as_tensor(size: Size) -> Tensor:
    return torch.stack([torch.full((), side, dtype=torch.int64) for side in size])


def largest_size(model: Segmentor) -> Size | None:
    """Return the largest image that a network takes, or None where it takes any: UN-EPT's window is one."""
    try:
        model.legal_size(2**15, 2**15)
    except InputError:
        return model.legal_size(1, 1)
    return None
