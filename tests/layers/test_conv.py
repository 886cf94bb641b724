"""Our block of convolution, norm and activation beside mmcv's, which the published heads are made of."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import ConvModule

from segcore.layers.conv import Activation, ConvNormAct


@pytest.mark.parametrize("activation", ["ReLU", "LeakyReLU", "none"])
@pytest.mark.parametrize(
    ("kernel", "settings"),
    [(3, {"padding": 1}), (1, {"groups": 4}), (3, {"stride": 2, "padding": 2, "dilation": 2})],
    ids=["3x3", "grouped 1x1", "strided and dilated"],
)
def test_the_block_is_mmcvs_from_its_first_values_on(
    activation: Activation, kernel: int, settings: dict[str, int]
) -> None:
    act = None if activation == "none" else {"type": activation}
    torch.manual_seed(0)
    theirs = ConvModule(8, 12, kernel, norm_cfg={"type": "BN"}, act_cfg=act, **settings)
    after = torch.rand(1)
    torch.manual_seed(0)
    ours = ConvNormAct(8, 12, kernel, activation=activation, **settings)
    assert torch.equal(torch.rand(1), after)  # as many random numbers were drawn
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    image = torch.randn(2, 8, 9, 7)
    for is_training in (True, False):
        torch.testing.assert_close(ours.train(is_training)(image), theirs.train(is_training)(image), rtol=0, atol=0)


def test_the_size_is_kept_without_a_padding() -> None:
    assert ConvNormAct(2, 3, 3, dilation=4)(torch.zeros(2, 2, 9, 7)).shape == (2, 3, 9, 7)
