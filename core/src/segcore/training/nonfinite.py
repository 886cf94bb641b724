"""Losses and weights that are no numbers, noticed before they are saved; states whose weights had exploded before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segcore import distributed
from segcore.errors import InputError
from segcore.training.trainer import Trainer
from segcore.weights.states import whole_states

EXPLODED = 10.0
"""Weights whose next loss is this many times the first loss of the run are not worth going on from."""


class LossWatch:
    """Notices a loss that is not finite; on a GPU it looks only when the run logs or saves, not at every step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=trainer.world.device)
        # iteration of a state -> loss of the step after it; the state that the run goes on from has none yet
        self.next_losses: dict[int, Tensor | None] = {trainer.iteration: None}

    def note(self, loss: Tensor, iteration: int) -> None:
        """Remember the first iteration whose loss is not finite, and what became of every state."""
        loss = loss.detach()
        if self.trainer.first_loss is None:
            self.trainer.first_loss = loss
        if iteration in self.next_losses:
            self.next_losses[iteration] = loss
        is_first = ~torch.isfinite(loss) & (self.first_bad < 0)
        self.first_bad = torch.where(is_first, torch.full_like(self.first_bad, iteration), self.first_bad)
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise where some loss was not finite, naming the iteration and the images of its batch.

        Raises:
            InputError: with the last good state on disk.
        """
        iteration = int(distributed.all_reduce_max(self.first_bad.clone()).item())
        if iteration < 0:
            return
        data = self.trainer.train_data
        files = [str(data.files(index)[0] or f"{data.name} {index}") for index in self.trainer.plan.images(iteration)]
        images = ", ".join(files)
        raise InputError(f"the loss is not finite at iteration {iteration} (images {images}); {self._advice()}")

    def check_weights(self) -> None:
        """Raise where a step left weights that are no numbers: they must not be saved or tested; else they will be.

        Raises:
            InputError: with the last good state on disk.
        """
        self.check()
        if not self.trainer.is_finite():
            raise InputError(f"the weights are not finite after iteration {self.trainer.iteration}; {self._advice()}")
        self.next_losses[self.trainer.iteration] = None

    def _is_sane(self, iteration: int) -> bool:
        """Return whether the loss after a state was finite and no multiple of the first one, as far as it is known."""
        loss, first = self.next_losses.get(iteration), self.trainer.first_loss
        if loss is None or first is None:
            return True
        return math.isfinite(float(loss)) and float(loss) <= EXPLODED * float(first)

    def _advice(self) -> str:
        folder = self.trainer.recipe.run.work_dir
        are_sane = [(state.path, self._is_sane(state.content["iteration"])) for state in whole_states(folder)]
        good = next((path for path, is_sane in are_sane if is_sane), None)
        kept = f"the last good state is {good}" if good else "no good state is left"
        if are_sane and not are_sane[0][1]:
            kept += " (the newest hold exploded weights: move those away)"
        return f"{kept}. Lower --optim.lr, set --optim.clip-norm, or turn --run.amp off"
