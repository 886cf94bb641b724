"""Processes that do nothing but leave the files of a training, a test or a measurement."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from segcore.compare.runner import DONE
from segcore.compare.study import COST
from segcore.evaluation.score_files import ScoredImages, ScoreFile, file_hash, score_path, write_score
from segcore.paper import load_paper
from segcore.recipe.file import read_recipe_file, recipe_from_plain


class Child:
    """In place of `subprocess.Popen`."""

    calls: ClassVar[list[tuple[str, str, list[str]]]] = []
    """Head, run and steps of each."""
    places: ClassVar[list[str]] = []
    failing: ClassVar[set[str]] = set()
    """Heads whose training fails."""
    rates: ClassVar[dict[tuple[str, float], float]] = {}
    """(Head, learning rate) -> mIoU on the validation images."""
    on_start: ClassVar[list[Callable[[], object]]] = []
    """Called when a process starts."""

    def __init__(self, words: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        assert words[3:5] == ["compare", "one"]
        self.file, self.steps, self.out = Path(words[6]), words[8:], stdout
        self.head = self.file.parent.name
        Child.calls.append((self.head, self.file.stem, self.steps))
        Child.places.append(env.get("CUDA_VISIBLE_DEVICES", ""))
        self.signaled = 0
        for call in Child.on_start:
            call()

    def terminate(self) -> None:
        self.signaled = 15

    def send_signal(self, number: int) -> None:
        self.signaled = number

    def wait(self) -> int:
        while Child.on_start and not self.signaled:  # the signal's handler runs in the main thread
            time.sleep(0.01)
        if self.signaled:
            return 128 + self.signaled
        for step in self.steps:
            code = {"train": self._train, "cost": self._measure}.get(step, lambda s=step: self._test(s))()
            if code:
                return code
            self.out.write(f"{DONE}{step}\n")
        return 0

    @property
    def recipe(self) -> Any:
        """The recipe of the run."""
        document = read_recipe_file(self.file)
        return recipe_from_plain(load_paper(document.paper), document.recipe, str(self.file))

    @property
    def weights(self) -> Path:
        """The file that its training leaves."""
        return Path(self.recipe.run.work_dir, "best.safetensors")

    def _train(self) -> int:
        if self.head in Child.failing:
            self.out.write("a traceback\nsegcore compare one: the loss is no number; lower --optim.lr\n")
            return 2
        self.weights.parent.mkdir(parents=True, exist_ok=True)
        score = Child.rates.get((self.head, self.recipe.optim.lr), 0.1)
        line = {"mode": "val", "iteration": 8, "mIoU": score}
        (self.weights.parent / "log.jsonl").write_text(json.dumps(line) + "\n")
        self.weights.write_text(str(self.file))
        return 0

    def _test(self, step: str) -> int:
        recipe, weights = self.recipe, self.weights
        protocol = recipe.evaluate.protocol(step == "test-aug")
        data = ScoredImages.of(recipe.data, recipe.run.data)
        score = ScoreFile(
            weights=weights.name,
            sha256=file_hash(weights),
            paper="",
            recipe="",
            data=data,
            images=1,
            protocol=protocol,
            amp="off",
            time="",
            metric={},
        )
        path = score_path(weights.parent, weights, data, protocol)
        path.with_suffix(".npz").write_text("")
        write_score(path, score)
        return 0

    def _measure(self) -> int:
        (self.weights.parent / COST).write_text("{}")
        return 0
