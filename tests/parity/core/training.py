"""Parity of schedules, parameter rules and checkpoint reading (docs/protocol 6 and 7)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from segcore.errors import InputError
from segcore.recipe import Optim, Schedule
from segcore.training.optim import learning_rate, rule
from segcore.weights.torch_files import read_published, read_torch_file
from tests.parity.building import one_of
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core.limits import EXACT, families, limits
from tests.parity.core.networks import parameter_sizes


def schedules(case: ParityCase) -> Iterator[Comparison]:
    """Yield the rates of every group at the iterations that a schedule lists."""
    (family,) = families(case.data, "M", "S")
    for name in case.data["expected"]:
        expected = case.data["expected"][name]
        config, total = expected["config"], expected["iterations"]
        schedule = schedule_of(config, total, family)
        if family == "S":
            yield Comparison(f"{name}: iterations", config["epochs"] * config["iterations_per_epoch"], total, **EXACT)
            base, factors = config["lr"], (1.0, 1.0, config["lr_multiplier"])
        else:
            groups = expected["group_base_lr"]
            base, factors = groups[0], [group / groups[0] for group in groups]
        for iteration, *rates in expected["rows"]:
            ours = [learning_rate(schedule, total, base, factor, iteration) for factor in factors]
            yield Comparison(f"{name}.{iteration}", ours, rates, **limits(case.data))


def schedule_of(config: Mapping[str, Any], total: int, family: str) -> Schedule:
    """Express a published schedule in our options; its warmup is flat or nested."""
    min_lr = config.get("min_lr")
    if min_lr is None:
        min_lr = 0.01 * config["lr"] if family == "S" else 0.0
    kind = one_of(config["policy"], "poly", "step")
    options: dict[str, Any] = {"kind": kind, "family": family, "min_lr": min_lr}
    options |= {ours: config[ours] for ours in ("power", "step", "gamma") if ours in config}
    warmup, length, ratio = (config.get(key) for key in ("warmup", "warmup_iters", "warmup_ratio"))
    if isinstance(warmup, Mapping):
        warmup, length, ratio = warmup["type"], warmup["iters"], warmup["ratio"]
    if warmup is not None:
        kind = one_of(warmup, "constant", "linear", "exp")
        options |= {"warmup": length, "warmup_kind": kind, "warmup_ratio": ratio}
    return Schedule(iterations=total, **options)


def _optim_of(settings: Mapping[str, Any]) -> Optim:
    keys = settings["paramwise_cfg"]["custom_keys"]
    return Optim(
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        lr_mult={key: keys[key]["lr_mult"] for key in keys if "lr_mult" in keys[key]},
        decay_mult={key: keys[key]["decay_mult"] for key in keys if "decay_mult" in keys[key]},
    )


def rules(case: ParityCase) -> Iterator[Comparison]:
    """Yield learning rate and weight decay by single names."""
    families(case.data, "M")
    for name in case.data["inputs"]:
        optim, expected = _optim_of(case.data["inputs"][name]), case.data["expected"][name]
        for parameter in expected:
            lr_mult, decay = rule(parameter, optim)
            ours = [optim.lr * lr_mult, decay]
            yield Comparison(f"{name}.{parameter}", ours, expected[parameter], **limits(case.data))


def groups(case: ParityCase) -> Iterator[Comparison]:
    """Yield the group of every parameter of a network, and how many tensors and values each group has."""
    families(case.data, "M")
    optim, expected = _optim_of(case.data["inputs"]["optimizer"]), case.data["expected"]
    members = {group: expected[group]["names"] for group in expected}
    totals = {group: expected[group]["parameters"] for group in expected}
    sizes = parameter_sizes([name for names in members.values() for name in names], sum(totals.values()))
    for group, names in members.items():
        published = [float(part) for part in group.split("/")]  # the group's name is its rate and decay
        yield Comparison(f"{group}: tensors", len(names), expected[group]["tensors"], **EXACT)
        yield Comparison(f"{group}: parameters", sum(sizes[name] for name in names), totals[group], **EXACT)
        for parameter in names:
            lr_mult, decay = rule(parameter, optim)
            yield Comparison(f"{group}.{parameter}", [optim.lr * lr_mult, decay], published, **limits(case.data))


def checkpoints(case: ParityCase) -> Iterator[Comparison]:
    """Yield what the files hold; those with `error` must be refused, and nothing of them run."""
    families(case.data, "M", "S")
    for relative in case.data["inputs"]["files"]:
        path = case.path.parent / relative
        expected = case.data["expected"][path.name]
        if expected.get("error"):
            yield _refused(path)
        else:
            yield from _content(path, expected, limits(case.data))


def _content(path: Path, expected: Mapping[str, Any], allowed: Mapping[str, float]) -> Iterator[Comparison]:
    loaded, tensors = read_published(path), expected["tensors"]
    yield _same(f"{path.name}: names", sorted(loaded.tensors), sorted(tensors))
    for name in tensors:
        tensor = loaded.tensors[name]
        yield Comparison(f"{path.name}: shape of {name}", list(tensor.shape), tensors[name]["shape"], **EXACT)
        total = tensor.double().sum().item()
        yield Comparison(f"{path.name}: sum of {name}", total, tensors[name]["sum"], **allowed)
    if "names_stored_with_prefix" in expected:
        content = read_torch_file(path)
        stored = content.get("state_dict", content.get("model", content))
        prefixed = [expected["names_stored_with_prefix"] + name for name in tensors]
        yield _same(f"{path.name}: stored names", sorted(stored), sorted(prefixed))
    if "meta" in expected:
        for key in expected["meta"]:
            yield _same(f"{path.name}: {key}", _as_lists(loaded.meta[key]), expected["meta"][key])


def _refused(path: Path) -> Comparison:
    with _watching() as ran:
        try:
            read_published(path)
        except InputError:
            ran.append("refused")
    return _same(f"{path.name}: reading it", ran, ["refused"])


_ACTIONS = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.putenv", "shutil.",
)  # fmt: skip


@contextmanager
def _watching() -> Iterator[list[str]]:
    """Give a list of what Python did meanwhile that no reading needs: processes, network, files written, text run."""
    ran: list[str] = []
    is_on = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on:
            is_writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            is_text = event == "compile" and arguments[1] == "<string>"
            if is_writing or is_text or event.startswith(_ACTIONS):
                ran.append(event)

    sys.addaudithook(hook)  # there is no way to take it off again
    try:
        yield ran
    finally:
        is_on = False


def _as_lists(value: Any) -> Any:
    """Return what JSON makes of a file's entry."""
    if hasattr(value, "tolist"):
        value = cast(Any, value).tolist()
    return [_as_lists(part) for part in value] if isinstance(value, (list, tuple)) else value


def _same(name: str, ours: Any, published: Any) -> Comparison:
    """Compare what is no number."""
    return Comparison(f"{name} ({ours}, published {published})", float(ours == published), 1.0, **EXACT)
