"""A case that remembers which of its values were looked at, so that nothing in it can be passed over.

A value is READ when it is taken by its own key, `case["losses"]["total"]` or `.get("total")`. Looking at names only
(`in`, `len`, iteration over the keys) reads nothing: whoever loops over names has to take what he uses by its name. So
`items()` and `values()` are refused: they would hand out values whether or not they are wanted. A list that holds
objects hands out the objects, each of which remembers for itself; a list of plain values is one value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, overload

INFORMATION = {
    "notes": "says in words where the numbers came from and how they were made",
    "comment": "says in words why a tolerance is what it is",
    "role": "says in words what an input is to the block; its key says it to the adapter",
    "values": "says in words that only the shape of an input matters",
}
"""Keys that need not be read where their value is TEXT, and why. Numbers and lists under these keys must be read."""


class RecordedMapping(Mapping[str, Any]):
    """A JSON object that remembers which of its values were taken."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._values = {key: recorded(value) for key, value in content.items()}
        self._taken: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        self._taken.add(key)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"RecordedMapping({self._values!r})"

    def items(self) -> NoReturn:
        raise TypeError("items() would read every value: loop over the keys and take by key what is used")

    def values(self) -> NoReturn:
        raise TypeError("values() would read every value: loop over the keys and take by key what is used")

    def unread(self, path: str = "") -> Iterator[str]:
        """Yield the paths of all values that nobody took."""
        for key, value in self._values.items():
            place = f"{path}.{key}" if path else key
            if isinstance(value, (RecordedMapping, RecordedSequence)):
                yield from value.unread(place)
            elif key not in self._taken and value != [] and not (key in INFORMATION and _is_text(value)):
                yield place


class RecordedSequence(Sequence[Any]):
    """A JSON list that holds objects, directly or in lists of its own."""

    def __init__(self, content: Sequence[Any]) -> None:
        self._values = [recorded(value) for value in content]
        self._taken: set[int] = set()

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> NoReturn: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            raise TypeError("a slice would hide what was left out: take the items one by one")
        self._taken.add(range(len(self))[index])
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"RecordedSequence({self._values!r})"

    def unread(self, path: str) -> Iterator[str]:
        """Yield the paths of all values that nobody took."""
        for i, value in enumerate(self._values):
            if isinstance(value, (RecordedMapping, RecordedSequence)):
                yield from value.unread(f"{path}[{i}]")
            elif i not in self._taken:
                yield f"{path}[{i}]"


def recorded(value: Any) -> Any:
    """Return JSON content with every object and every list of objects wrapped; plain values stay as they are."""
    if isinstance(value, dict):
        return RecordedMapping(value)
    return RecordedSequence(value) if _holds_objects(value) else value


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) or _holds_objects(item) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
