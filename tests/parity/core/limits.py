"""Tolerances and families of core's cases, as the cases say them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

EXACT = {"rtol": 0.0, "atol": 0.0}


def limits(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the tolerances of a case; those of summaries are relative to the standard deviation."""
    tolerance = data["tolerance"]
    if tolerance.get("exact"):
        return EXACT
    return {key: float(tolerance[key]) if key in tolerance else 0.0 for key in ("rtol", "atol")}


def ratio_limits(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the tolerance of scores, which metrics cases have in words: "areas exact, ratios to 1e-9; ..."."""
    (limit,) = re.findall(r"ratios to ([\d.e-]+)", data["tolerance"]["metric"])
    return {"rtol": float(limit), "atol": float(limit)}


def gray_levels(data: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, float]:
    """Return the tolerance of an image: a number of gray levels, of which a summary's unit is its deviation."""
    return {"rtol": 0.0, "atol": data["tolerance"]["image_atol"] / float(published["std"])}


def families(data: Mapping[str, Any], *known: str) -> list[str]:
    """Return the families of a case, "M", "S" or both.

    Raises:
        ValueError: if there is one that this kind of case does not know.
    """
    found = data["flavour"].split("+")
    if not set(found) <= set(known):
        raise ValueError(f"this kind of case knows the families {', '.join(known)}, not {data['flavour']}")
    return found
