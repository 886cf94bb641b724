"""Losses and weights that are no numbers: noticed before they are saved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segcore import distributed
from segcore.errors import InputError
from segcore.training.trainer import Trainer
from segcore.weights.states import latest_state


class LossWatch:
    """Notices a loss that is not finite; on a GPU it looks only when the run logs or saves, not at every step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=trainer.world.device)

    def note(self, loss: Tensor, iteration: int) -> None:
        """Remember the first iteration whose loss is not finite."""
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
        """Raise where a step left weights that are no numbers: they must not be saved or tested.

        Raises:
            InputError: with the last good state on disk.
        """
        self.check()
        if not self.trainer.is_finite():
            raise InputError(f"the weights are not finite after iteration {self.trainer.iteration}; {self._advice()}")

    def _advice(self) -> str:
        state = latest_state(Path(self.trainer.recipe.run.work_dir))
        kept = f"the last good state is {state}" if state else "no state had been saved before"
        return f"{kept}. Lower --optim.lr, set --optim.clip-norm, or turn --run.amp off"
