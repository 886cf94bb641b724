"""Parity of schedules, parameter rules and checkpoint reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segcore.recipe import Optim, Schedule
from segcore.training.optim import learning_rate, rule
from segcore.weights.torch_files import read_published
from tests.parity.case_files import Comparison, ParityCase


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one."""
    yield from _KINDS[case.data["kind"]](case)


def _tolerance(case: ParityCase) -> dict[str, float]:
    return {"rtol": case.data["tolerance"]["rtol"], "atol": case.data["tolerance"]["atol"]}


def _schedule(case: ParityCase) -> Iterator[Comparison]:
    tolerance = _tolerance(case)
    for name, expected in case.data["expected"].items():
        config, total = expected["config"], expected["iterations"]
        schedule = schedule_of(config, total, case.data["flavour"])
        for iteration, *rates in expected["rows"]:
            if case.data["flavour"] == "S":
                multipliers = (1.0, 1.0, config["lr_multiplier"])
                ours = [learning_rate(schedule, total, config["lr"], mult, iteration) for mult in multipliers]
            else:
                bases = expected["group_base_lr"]
                ours = [learning_rate(schedule, total, bases[0], base / bases[0], iteration) for base in bases]
            yield Comparison(f"{name}.{iteration}", ours, rates, **tolerance)


def schedule_of(config: Mapping[str, Any], total: int, family: str) -> Schedule:
    """Express a published schedule in our options."""
    return Schedule(
        iterations=total,
        kind=config["policy"],
        power=config.get("power", 1.0),
        min_lr=config.get("min_lr", 0.0),
        family="S" if family == "S" else "M",
        warmup=config.get("warmup_iters", 0),
        warmup_ratio=config.get("warmup_ratio", 1.0),
        step=config.get("step", 0),
    )


def _optim_of(settings: Mapping[str, Any]) -> Optim:
    keys = settings["paramwise_cfg"]["custom_keys"]
    return Optim(
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        lr_mult={key: values["lr_mult"] for key, values in keys.items() if "lr_mult" in values},
        decay_mult={key: values["decay_mult"] for key, values in keys.items() if "decay_mult" in values},
    )


def _param_groups(case: ParityCase) -> Iterator[Comparison]:
    for name, settings in case.data["inputs"].items():
        optim = _optim_of(settings)
        for parameter, expected in case.data["expected"][name].items():
            lr_mult, decay = rule(parameter, optim)
            yield Comparison(f"{name}.{parameter}", [optim.lr * lr_mult, decay], expected, **_tolerance(case))


def _param_groups_full(case: ParityCase) -> Iterator[Comparison]:
    optim = _optim_of(case.data["inputs"]["optimizer"])
    for group, expected in case.data["expected"].items():
        published = [float(part) for part in group.split("/")]
        for parameter in expected["names"]:
            lr_mult, decay = rule(parameter, optim)
            # the group's name is its rate and decay to six digits
            yield Comparison(f"{group}.{parameter}", [optim.lr * lr_mult, decay], published, rtol=1e-6, atol=0.0)


def _checkpoint(case: ParityCase) -> Iterator[Comparison]:
    for relative in case.data["inputs"]["files"]:
        path = case.path.parent / relative
        expected = case.data["expected"][path.name]
        loaded = read_published(path)
        yield _same(f"{path.name}: names", sorted(loaded.tensors), sorted(expected["tensors"]))
        for name, facts in expected["tensors"].items():
            tensor = loaded.tensors[name]
            yield Comparison(f"{path.name}: shape of {name}", list(tensor.shape), facts["shape"], atol=0.0)
            total = tensor.double().sum().item()
            yield Comparison(f"{path.name}: sum of {name}", total, facts["sum"], **_tolerance(case))
        for key, value in expected.get("meta", {}).items():
            is_text = isinstance(value, list) and isinstance(value[0], str)
            compare_value = _same if is_text else Comparison
            yield compare_value(f"{path.name}: {key}", loaded.meta[key], value)


def _same(name: str, ours: Any, published: Any) -> Comparison:
    """Compare what is no number."""
    return Comparison(f"{name} ({list(ours)}, published {published})", float(list(ours) == published), 1.0, atol=0.0)


_KINDS = {
    "schedule": _schedule,
    "param_groups": _param_groups,
    "param_groups_full": _param_groups_full,
    "checkpoint": _checkpoint,
}
