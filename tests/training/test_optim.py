"""Parameter rules, schedules and the moving average."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segcore.errors import InputError
from segcore.recipe import Optim, Schedule
from segcore.training.optim import (
    ExponentialAverage,
    build_optimizer,
    learning_rate,
    parameter_groups,
    restore_optimizer,
    rule,
    set_learning_rate,
)
from segcore.weights.names import NameMap
from tests.tiny_paper import NAMES, TinySegmentor

POLY = Schedule(iterations=1000, power=0.9, min_lr=1e-5, warmup=100, warmup_ratio=1e-3)


def test_the_longest_matching_key_decides_alone() -> None:
    optim = Optim(lr=1.0, weight_decay=0.1, lr_mult={"head": 10.0, "backbone": 0.5}, decay_mult={"norm": 0.0})
    assert rule("backbone.norm.weight", optim) == (0.5, 0.1)  # `backbone` is longer: the norm keeps its decay
    assert rule("neck.norm.weight", optim) == (1.0, 0.0)
    assert rule("neck.talking_head.weight", optim) == (10.0, 0.1)
    assert rule("neck.weight", optim) == (1.0, 0.1)


def test_of_keys_of_one_length_the_alphabetically_first_decides() -> None:
    optim = Optim(lr=1.0, weight_decay=0.1, lr_mult={"norm": 3.0, "head": 10.0})
    assert rule("head.norm.weight", optim) == (10.0, 0.1)


def test_a_key_of_both_tables_gives_both_factors() -> None:
    optim = Optim(lr=1.0, weight_decay=0.1, lr_mult={"head": 10.0}, decay_mult={"head": 0.5})
    assert rule("head.weight", optim) == (10.0, 0.05)


def test_groups_follow_published_names_and_hold_every_trained_parameter_once() -> None:
    model = TinySegmentor(4, 3)
    model.stem.requires_grad_(False)
    optim = Optim(lr=0.1, weight_decay=0.01, lr_mult={"decode_head": 10.0}, decay_mult={"norm": 0.0})
    groups = parameter_groups(model, NAMES, optim)
    found = [(group["lr_mult"], group["weight_decay"], len(group["params"])) for group in groups]
    assert found == [(1.0, 0.0, 2), (1.0, 0.01, 1), (10.0, 0.01, 2)]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 1.0]


def test_a_model_without_trained_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="no parameter to train"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False), NameMap(), Optim(lr=1.0))


def test_sgd_uses_the_momentum_of_the_recipe() -> None:
    optimizer = build_optimizer(nn.Linear(1, 1), NameMap(), Optim(kind="sgd", lr=1.0, momentum=0.7))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_the_fused_optimizer_takes_the_step_of_the_plain_one() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    twin = nn.Linear(8, 8)
    twin.load_state_dict(model.state_dict())
    plain = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.3, foreach=False, fused=False)
    fused = build_optimizer(model, NameMap(), Optim(lr=0.1, weight_decay=0.3))
    for network, optimizer in ((model, fused), (twin, plain)):
        network(torch.ones(1, 8)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-7)


@given(
    total=st.integers(1, 10_000),
    power=st.floats(0.1, 2.0),
    min_lr=st.floats(0.0, 0.01),
    mult=st.floats(0.1, 10.0),
    family=st.sampled_from(["M", "S"]),
)
def test_poly_starts_at_the_base_rate_and_would_end_at_the_minimum(
    total: int, power: float, min_lr: float, mult: float, family: str
) -> None:
    schedule = Schedule(iterations=total, power=power, min_lr=min_lr, family=family)  # pyright: ignore
    floor = min_lr * mult if family == "S" else min_lr
    assert learning_rate(schedule, total, 0.1, mult, 0) == pytest.approx(0.1 * mult)
    assert learning_rate(schedule, total, 0.1, mult, total) == pytest.approx(floor)


def test_the_last_executed_step_is_one_short_of_the_end() -> None:
    schedule = Schedule(iterations=10, power=1.0)
    assert learning_rate(schedule, 10, 1.0, 1.0, 9) == pytest.approx(0.1)


def test_poly_never_rises_after_the_warmup() -> None:
    rates = [learning_rate(POLY, 1000, 0.1, 1.0, i) for i in range(POLY.warmup, 1001)]
    assert all(a >= b for a, b in pairwise(rates))


def test_warmup_starts_at_its_ratio_of_the_decayed_rate_and_ends_without_a_jump() -> None:
    plain = Schedule(iterations=1000, power=0.9, min_lr=1e-5)
    assert learning_rate(POLY, 1000, 0.1, 1.0, 0) == pytest.approx(1e-3 * 0.1)
    assert learning_rate(POLY, 1000, 0.1, 1.0, 50) == pytest.approx(
        (1 - 0.5 * (1 - 1e-3)) * learning_rate(plain, 1000, 0.1, 1.0, 50)
    )
    assert learning_rate(POLY, 1000, 0.1, 1.0, 100) == learning_rate(plain, 1000, 0.1, 1.0, 100)


def test_a_constant_warmup_jumps_and_an_exponential_one_rises_by_equal_factors() -> None:
    plain = [learning_rate(replace(POLY, warmup=0), 1000, 0.1, 1.0, i) for i in range(102)]
    for family, last in (("M", 99), ("S", 100)):  # family S counts one step more
        constant = replace(POLY, warmup_kind="constant", family=family)
        factors = [learning_rate(constant, 1000, 0.1, 1.0, i) / plain[i] for i in range(102)]
        assert factors == pytest.approx([1e-3] * (last + 1) + [1.0] * (101 - last))
        exponential = replace(POLY, warmup_kind="exp", family=family)
        factors = [learning_rate(exponential, 1000, 0.1, 1.0, i) / plain[i] for i in range(102)]
        assert [b / a for a, b in pairwise(factors[:101])] == pytest.approx([1e3**0.01] * 100)
        assert factors[0] == pytest.approx(1e-3)
        assert factors[100:] == [1.0, 1.0]


def test_no_warmup_changes_no_first_step() -> None:
    for family in ("M", "S"):
        schedule = replace(POLY, warmup=0, warmup_kind="constant", family=family)
        assert learning_rate(schedule, 1000, 0.1, 1.0, 0) == 0.1


def test_step_decays_at_its_multiples() -> None:
    schedule = Schedule(iterations=30, kind="step", step=10, gamma=0.1)
    rates = [learning_rate(schedule, 30, 1.0, 2.0, i) for i in (0, 9, 10, 19, 20, 29)]
    assert rates == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])


def test_groups_of_family_m_share_the_minimum_and_those_of_family_s_scale_it() -> None:
    for family, floors in (("M", (1e-3, 1e-3)), ("S", (1e-3, 1e-2))):
        schedule = Schedule(iterations=10, min_lr=1e-3, family=family)  # pyright: ignore
        assert [learning_rate(schedule, 10, 0.1, mult, 10) for mult in (1.0, 10.0)] == pytest.approx(floors)


def test_every_group_gets_its_own_rate() -> None:
    model = TinySegmentor(4, 3)
    optim = Optim(lr=0.1, lr_mult={"decode_head": 10.0})
    optimizer = build_optimizer(model, NAMES, optim)
    set_learning_rate(optimizer, Schedule(iterations=10), 10, optim.lr, 5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


def _moved(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


def test_the_average_moves_by_one_minus_the_decay() -> None:
    model = TinySegmentor(4, 3)
    before = model.stem.weight.detach().clone()
    average = ExponentialAverage(model, 0.75)
    _moved(model)
    average.update(model)
    torch.testing.assert_close(average.weights(model)["stem.weight"], before + 0.25)


def test_the_model_has_the_averages_inside_the_block_and_its_own_weights_after_it() -> None:
    model = TinySegmentor(4, 3)
    average = ExponentialAverage(model, 0.5)
    _moved(model)
    average.update(model)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def evaluate() -> None:
        with average.applied_to(model):
            torch.testing.assert_close(model.scale.detach(), own["scale"] - 0.5)
            raise KeyboardInterrupt  # whatever happens inside

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, own[name], rtol=0, atol=0)


def test_a_restored_average_continues_bit_equal() -> None:
    model = TinySegmentor(4, 3)
    average = ExponentialAverage(model, 0.9)
    _moved(model)
    average.update(model)
    restored = ExponentialAverage(model, 0.9)
    restored.load_state_dict({name: tensor.clone() for name, tensor in average.state_dict().items()})
    for current in (average, restored):
        current.update(model)
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(restored.state_dict()[name], tensor, rtol=0, atol=0)


def test_an_average_of_another_model_is_refused() -> None:
    average = ExponentialAverage(TinySegmentor(4, 3), 0.9)
    with pytest.raises(InputError, match="another model"):
        average.load_state_dict({"weight": torch.zeros(1)})


class _WithUnread(nn.Module):
    """A network whose `spare` leads to no output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare, self.last = nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.last(self.first(torch.ones(4, 3))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_state_that_knows_parameters_that_lead_nowhere_goes_on_as_it_would_have(kind: Any) -> None:
    """Versions before `freeze_unread` gave them to the optimizer, too."""
    optim = Optim(kind=kind, lr=0.1, decay_mult={"bias": 0.0})
    torch.manual_seed(0)
    old, new = _WithUnread(), _WithUnread()
    before = build_optimizer(old, NameMap(), optim)
    for _ in range(2):
        old.step(before)
    new.load_state_dict(old.state_dict())
    new.spare.requires_grad_(False)
    after = build_optimizer(new, NameMap(), optim)
    restore_optimizer(after, copy.deepcopy(before.state_dict()))
    old.step(before)
    new.step(after)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_moments_that_are_not_those_of_the_network_are_refused(kind: Any) -> None:
    network, optim = _WithUnread(), Optim(kind=kind, lr=0.1)
    optimizer = build_optimizer(network, NameMap(), optim)
    network.step(optimizer)
    saved, fresh = optimizer.state_dict(), build_optimizer(_WithUnread(), NameMap(), optim)
    name = "exp_avg" if kind == "adamw" else "momentum_buffer"
    saved["state"][0][name] = torch.zeros(7)
    with pytest.raises(InputError, match=rf"the {name} of its optimizer's parameter 0 is not of the network's shape"):
        restore_optimizer(fresh, saved)
    del saved["state"][0][name]
    with pytest.raises(InputError, match=r"parameter 0 lacks moments"):
        restore_optimizer(fresh, saved)
    del saved["state"][0]
    saved["param_groups"][0]["params"].pop()
    with pytest.raises(InputError, match=r"knows 3 trained parameters, the network has 6"):
        restore_optimizer(fresh, saved)
