"""Seeds of the steps: the same in every Python; an older state goes on with its own rule (issue 12)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segcore.errors import InputError
from segcore.training import trainer
from segcore.training.loop import train
from segcore.training.seeds import OLD_SEED_RULE, SEED_RULE, SEED_RULES
from segcore.weights.states import load_state, save_state, state_path
from tests.tiny_paper import PAPER, TinySegmentor
from tests.training.test_loop import recipe


class _Noisy(TinySegmentor):
    """The tiny network, with a layer whose values depend on the step's seed."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(image, 0.5, self.training))


SEEDS = [2_635_072_618_980_576_772, 14_898_058_564_793_133_489, 11_539_782_348_902_174_461, 6_651_666_526_363_356_749]
NOISY = replace(PAPER, build=lambda recipe, num_classes: _Noisy(recipe.model.width, num_classes))  # pyright: ignore


def test_the_seeds_are_numbers_that_stay() -> None:
    rule = SEED_RULES[SEED_RULE]
    assert [rule(0, 0, 0), rule(0, 0, 1), rule(0, 1, 0), rule(1, 0, 0)] == SEEDS
    torch.manual_seed(max(SEEDS))  # torch takes all 64 bits


def test_no_two_steps_share_a_seed() -> None:
    rule = SEED_RULES[SEED_RULE]
    seeds = {rule(seed, rank, iteration) for seed in range(3) for rank in range(4) for iteration in range(500)}
    assert len(seeds) == 3 * 4 * 500


def _finish(folder: Path, rule: str, start: int) -> dict[str, torch.Tensor]:
    """Run four steps with a rule, those after `start` (unless 0) resumed from its state."""
    settings = recipe(folder, run={"keep": 9})
    settings = replace(settings, schedule=replace(settings.schedule, iterations=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SEED_RULE", rule)
        train(NOISY, "toy", settings)
    if start:
        state = load_state(state_path(folder, start))
        assert state["seed_rule"] == rule
        if rule == OLD_SEED_RULE:  # older states do not name it
            del state["seed_rule"]
        for number in range(start, 5):
            state_path(folder, number).unlink()
        save_state(state_path(folder, start), state)
        train(NOISY, "toy", replace(settings, run=replace(settings.run, resume=True)))
    return load_state(state_path(folder, 4))["model"]


@pytest.mark.parametrize("rule", list(SEED_RULES))
def test_a_resumed_state_goes_on_with_its_own_rule(tmp_path: Path, rule: str) -> None:
    whole = _finish(tmp_path / "whole", rule, 0)
    resumed = _finish(tmp_path / "resumed", rule, 2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_two_rules_differ(tmp_path: Path) -> None:
    first, second = (_finish(tmp_path / str(i), rule, 0) for i, rule in enumerate(SEED_RULES))
    assert not torch.equal(first["stem.weight"], second["stem.weight"])


def test_a_state_of_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    state = {**load_state(state_path(tmp_path, 2)), "seed_rule": "dice"}
    save_state(state_path(tmp_path, 2), state)
    with pytest.raises(InputError, match=r"state-00000002\.pt .* seeds follow the rule 'dice'"):
        train(PAPER, "toy", replace(settings, run=replace(settings.run, resume=True)))
