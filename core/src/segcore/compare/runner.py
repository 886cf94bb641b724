"""Runs of a study: ordinary trainings and tests, a process for each run, so that a crash ends one row only."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from segcore.compare.study import (
    COST,
    PlannedRun,
    Study,
    StudyFile,
    fragment,
    heads_of,
    joined,
    planned,
    protocols,
    read_study,
    recipe_of,
    write_study,
)
from segcore.data import choose_test_split, create_dataset
from segcore.evaluation.score_files import ScoredImages, file_hash, read_scores
from segcore.files import atomic_write, make_folder
from segcore.recipe.file import recipe_document
from segcore.training.run_folder import read_log
from segcore.weights.header import find_weights

DONE = "segcore compare one: done: "
"""Begins the line that a run's process writes after each of its steps."""
_PROGRAM = (sys.executable, "-m", "segcore.commands.main")


class StoppedError(Exception):
    """The study was asked to stop by a signal, whose number it holds."""


class Runner:
    """Trains, tests and measures what a study lacks.

    Args:
        study: what is asked for.
        command: the words that asked for it, kept for the page.
        say: takes a line for people.

    Raises:
        InputError: for an impossible recipe or unusable data, before anything is trained.
    """

    def __init__(self, study: Study, command: str, say: Callable[[str], None]) -> None:
        self.study, self.say = study, say
        self.folder = make_folder(Path(study.work_dir), "--work-dir")
        self.state = joined(study, read_study(self.folder), command)
        self.heads = {head.word: head for head in heads_of(replace(study, papers=",".join(self.state.heads)))}
        self._check()
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._stopped = 0

    def _check(self) -> None:
        """Make every recipe and open the data once."""
        for head in self.heads.values():
            recipe_of(self.study, planned(self.study, head, self.state.lrs[0], 0), self.study.iterations)
        data, _ = choose_test_split(fragment(self.study).data, self.study.root)
        for split in (data.train_split, data.val_split, data.test_split):
            create_dataset(data, self.study.root, split)

    def run(self) -> int:
        """Bring the study to what was asked for; returns 0, 1 where runs failed, 128 + the signal that stopped it."""
        with self._listening():
            try:
                self._set_iterations()
                self._save()
                if len(self.state.lrs) > 1:
                    tried = [planned(self.study, head, lr, 0) for lr in self.state.lrs for head in self.heads.values()]
                    self._each(tried, self._train)
                self._choose()
                chosen = [
                    planned(self.study, head, self.state.chosen[word], seed)
                    for seed in range(self.state.seeds)
                    for word, head in self.heads.items()
                    if word in self.state.chosen
                ]
                self._each(chosen, self._complete)
            except StoppedError:
                self.say(f"stopped by {signal.Signals(self._stopped).name}; the same command goes on")
                return 128 + self._stopped
        return 1 if self.state.problems else 0

    def _set_iterations(self) -> None:
        """Decide the steps of each new head."""
        known = dict(self.state.iterations)
        new = [word for word in self.heads if word not in known]
        if self.study.equal == "iterations":
            known |= dict.fromkeys(new, self.study.iterations)
        elif new:
            from segcore.compare.cost import step_costs  # loads torch

            first = next(iter(self.heads))
            asked = {
                word: (head.paper, recipe_of(self.study, planned(self.study, head, self.state.lrs[0], 0), 1))
                for word, head in self.heads.items()
                if word == first or word in new
            }
            costs = step_costs(asked, self.study.root, self.study.equal)
            for word in new:
                known[word] = max(round(self.study.iterations * costs[first] / costs[word]), 1)
        self._change(lambda state: replace(state, iterations=known))

    def _choose(self) -> None:
        """Take each head's best learning rate on the validation images."""
        for word, head in self.heads.items():
            if word in self.state.chosen:
                continue
            runs = [planned(self.study, head, lr, 0) for lr in self.state.lrs]
            trained = [run for run in runs if run.name in self.state.trained]
            rate = self.state.lrs[0] if len(runs) == 1 else None
            if trained and rate is None:
                rate = max(trained, key=lambda run: best_validation(run.folder)).lr
            if rate is not None:
                self._change(lambda state, w=word, lr=rate: replace(state, chosen={**state.chosen, w: lr}))

    def _each(self, runs: Sequence[PlannedRun], work: Callable[[PlannedRun, str], None]) -> None:
        """Do something for every run, as many at a time as there are GPUs."""
        places = _places(self.study.device)
        free: queue.Queue[str] = queue.Queue()
        for place in places:
            free.put(place)

        def one(run: PlannedRun) -> None:
            place = free.get()
            try:
                if not self._stopped:
                    work(run, place)
            finally:
                free.put(place)

        with ThreadPoolExecutor(len(places)) as pool:
            for done in [pool.submit(one, run) for run in runs]:
                done.result()
        if self._stopped:
            raise StoppedError

    def _train(self, run: PlannedRun, place: str) -> None:
        """Train a run to its end, from its last state where it has one."""
        if run.name not in self.state.trained:
            self._call(run, ["train"], place)

    def _complete(self, run: PlannedRun, place: str) -> None:
        """Train, test and measure a run: what of it is left."""
        is_trained = run.name in self.state.trained
        tests = ["test", "test-aug"] if self.study.aug_test else ["test"]
        tested = self._tested(run, find_weights(run.folder)) if is_trained else [False] * len(tests)
        steps = [] if is_trained else ["train"]
        steps += [step for step, is_done in zip(tests, tested, strict=True) if not is_done]
        if run.seed == 0 and not (run.folder / COST).is_file():
            steps.append("cost")
        if steps:
            self._call(run, steps, place)

    def _tested(self, run: PlannedRun, weights: Path) -> list[bool]:
        """Return which of the tests of these very weights are there."""
        data, _ = choose_test_split(fragment(self.study).data, self.study.root)
        images = ScoredImages.of(data, self.study.root)
        sha256 = file_hash(weights)
        found = [score for path, score in read_scores(weights) if path.with_suffix(".npz").is_file()]
        return [
            any(score.sha256 == sha256 and score.is_of(images, protocol) for score in found)
            for protocol in protocols(self.study)
        ]

    def _call(self, run: PlannedRun, steps: list[str], place: str) -> None:
        """Do some steps of a run in one process; keep what they came to, and its sentence where it failed."""
        iterations = self.state.iterations[run.head.word]
        self.say(f"{run.name}: {', '.join(steps)}{f', {iterations} iterations' if 'train' in steps else ''}")
        recipe, base = recipe_of(self.study, run, iterations), run.folder.parent / run.folder.name
        plan, log = Path(f"{base}.json"), Path(f"{base}.log")
        with atomic_write(plan) as file:
            file.write(recipe_document(run.head.paper.name, run.head.recipe, recipe, {}).encode())
        words = [*_PROGRAM, "compare", "one", run.head.paper.name, str(plan), "--steps", *steps]
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": place} if place else {})}
        with open(log, "w", encoding="utf-8") as file:
            child = subprocess.Popen(words, stdout=file, stderr=file, env=environment, text=True)
            self._children.add(child)
            if self._stopped:  # the signal came while it was started
                child.terminate()
            code = child.wait()
            self._children.discard(child)
        problem = {run.name: _sentence(log, code)} if code and not self._stopped else {}
        for text in problem.values():
            self.say(f"{run.name}: failed, {text}")
        is_trained = f"{DONE}train" in log.read_text("utf-8", "replace").splitlines()

        def note(state: StudyFile) -> StudyFile:
            others = {name: text for name, text in state.problems.items() if name != run.name}
            trained = [*state.trained, run.name] if is_trained else state.trained
            return replace(state, problems=others | problem, trained=trained)

        self._change(note)

    def _change(self, update: Callable[[StudyFile], StudyFile]) -> None:
        with self._lock:
            self.state = update(self.state)
            self._save()

    def _save(self) -> None:
        write_study(self.folder, self.state)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hand a signal on to the running processes, which save their state and end."""

        def stop(number: int, _: object) -> None:
            self._stopped = number
            for child in list(self._children):
                child.send_signal(signal.SIGTERM)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _places(device: str) -> list[str]:
    """Return the GPUs that runs share, as CUDA_VISIBLE_DEVICES names them; one empty name without several."""
    if device not in ("auto", "cuda"):
        return [""]
    import torch  # only here, so that a study on the CPU starts at once

    count = torch.cuda.device_count()
    if count < 2:
        return [""]
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(index) for index in range(count)]


def _sentence(log: Path, code: int) -> str:
    """Return why a process failed: the last line that it wrote."""
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name} (see {log})"
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    return last.partition(": ")[2] if last.startswith("segcore ") else last


def best_validation(folder: Path) -> float:
    """Return the best mIoU of a run's validations; 0 where there is none."""
    lines = read_log(folder / "log.jsonl")
    return max((line["mIoU"] or 0.0 for line in lines if line["mode"] == "val"), default=0.0)
