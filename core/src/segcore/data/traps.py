"""What makes a data set train on something else than was meant, though every file can be read.

Each rule names the likely cause and the option or command that mends it. All are guesses, made by counting: files that
cannot be used at all are not here but in `check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from segcore.data.folder import FolderDataset
from segcore.data.labels import IGNORE
from segcore.data.listing import Item
from segcore.data.read import Stored, stored_form

SampleTrap = Literal["lossy masks", "unclear rotation", "dark 16-bit images"]
TrapKind = Literal[SampleTrap, "unusual mask values", "unlisted values", "classes that never occur", "shared pictures"]
MAX_NAMES = 20
"""Samples, classes and values of a kind that are named; the others are counted."""

_ISOLATED = 0.008
"""Share of pixels without an equal neighbor above which a mask counts as lossy: at most 0.005 in the masks of CamVid as
they are or resized by nearest neighbor, at least 0.009 after JPEG (quality 75 to 95) or bilinear resizing."""
_USED_BITS = 14  # values of a 16-bit file below 2^14 are below 64 of 255 once scaled

_ADVICE: dict[SampleTrap, str] = {
    "lossy masks": (
        "hold single pixels of other classes along borders: probably saved as JPEG, or resized with interpolation, on "
        "the way to PNG; export them anew from where they were drawn, or resize with nearest neighbor"
    ),
    "unclear rotation": (
        "have an EXIF rotation in the image or the mask, and their sizes do not tell whether the mask was drawn on the "
        "turned image; look at one, and write the rotation into the pixels (ImageMagick: mogrify -auto-orient FILES)"
    ),
    "dark 16-bit images": (
        f"are 16-bit files without a value above {2**_USED_BITS}, nearly black once 65535 becomes 255: probably 10 to "
        f"{_USED_BITS} bits of a camera; scale them to the full range (ImageMagick: mogrify -auto-level FILES)"
    ),
}


@dataclass(frozen=True)
class Suspicion:
    """Something that is probably not meant.

    Attributes:
        message: what was found, the likely cause, and what mends it.
        names: the first MAX_NAMES samples or classes that it is about, in order.
    """

    kind: TrapKind
    message: str
    names: tuple[str, ...] = ()


def sample_traps(item: Item, image: np.ndarray, raw: np.ndarray | None) -> set[SampleTrap]:
    """Return what is suspicious about one readable sample.

    Shapes:
        image (H, W, 3) uint8, raw (H, W) uint8 file values, None without a label
    """
    found: set[SampleTrap] = set()
    stored = stored_form(item.image)
    if stored.bits == 16 and int(image.max(initial=0)) <= 2 ** (_USED_BITS - 8):
        found.add("dark 16-bit images")
    if item.label is None or raw is None:
        return found
    if _isolated_share(raw) > _ISOLATED and len(np.unique(raw)) > 2:
        found.add("lossy masks")
    if any(_is_unclear(form, raw.shape[0] == raw.shape[1]) for form in (stored, stored_form(item.label))):
        found.add("unclear rotation")
    return found


def _isolated_share(raw: np.ndarray) -> float:
    """Return the share of pixels that differ from all four neighbors."""
    has_equal = np.zeros(raw.shape, bool)
    for equal, first, second in (
        (raw[1:] == raw[:-1], has_equal[1:], has_equal[:-1]),
        (raw[:, 1:] == raw[:, :-1], has_equal[:, 1:], has_equal[:, :-1]),
    ):
        first |= equal
        second |= equal
    return 1 - float(has_equal.mean()) if raw.size else 0.0


def _is_unclear(form: Stored, is_square: bool) -> bool:
    """Tell whether a rotation leaves the size as it is: half turns and mirror images do, quarter turns of squares."""
    return 2 <= form.orientation <= (8 if is_square else 4)


def sample_suspicion(kind: SampleTrap, names: Sequence[str], of: int) -> Suspicion:
    """Return the finding about all samples with a trap of their own."""
    return Suspicion(kind, f"{len(names)} of {of} {_ADVICE[kind]}", tuple(names[:MAX_NAMES]))


def value_suspicion(dataset: FolderDataset, counts: np.ndarray) -> Suspicion | None:
    """Return what the values of all masks together say about their encoding.

    Args:
        counts: (256,) in how many masks each file value occurs.
    """
    num_classes = len(dataset.classes.names)
    found = {int(value) for value in np.flatnonzero(counts)}
    values = found - {IGNORE, dataset.ignore}
    stray = sorted(values - set(dataset.mask_values or range(num_classes)))
    if dataset.mask_values:
        return _unlisted(stray, counts) if stray else None
    if found == {0, IGNORE} and dataset.ignore == IGNORE:
        cause = "the masks hold 0 and 255, which counts as unlabeled: probably 0 is background and 255 an object"
        change = "" if num_classes == 2 else f"; the class file, which has {num_classes}, must then name these two"
        return _unusual(cause, f"pass --data.mask-values 0 255{change}")
    if not stray:
        return None
    counted = " ".join(str(value) for value in range(1, num_classes + 1))
    if stray == [num_classes] and 0 not in values:
        cause = f"the masks hold 1 to {num_classes} but no class 0: probably they count from 1"
        return _unusual(cause, f"pass --data.mask-values {counted}")
    if stray == [num_classes]:
        cause = f"the masks hold 0 to {num_classes}, one more than there are classes: probably 0 is background or void"
        first = "name it in the first line of the class file"
        return _unusual(cause, f"{first}, or pass --data.ignore 0 --data.mask-values {counted}")
    levels = values if len(values) == num_classes else found
    if len(levels) == num_classes:
        cause = f"the masks hold other values than 0 to {num_classes - 1}, but as many: probably gray levels"
        given = " ".join(map(str, sorted(levels)))
        order = ", ".join(dataset.classes.names[:3])
        return _unusual(cause, f"pass --data.mask-values {given}, in the order of the classes ({order}, ...)")
    return _unlisted(stray, counts)


def _unusual(cause: str, advice: str) -> Suspicion:
    return Suspicion("unusual mask values", f"{cause}; {advice}")


def _unlisted(stray: Sequence[int], counts: np.ndarray) -> Suspicion:
    listed = _listed([f"{value} (in {counts[value]} masks)" for value in stray])
    advice = (
        "add their classes to the class file; if one means no label, pass --data.ignore with it; many values in few "
        "pixels come from masks that were compressed or resized"
    )
    return Suspicion("unlisted values", f"the masks hold values that are no class: {listed}; {advice}")


def unused_classes(classes: Sequence[str], images_with: np.ndarray) -> Suspicion | None:
    """Return the classes of which no mask has a pixel."""
    missing = [name for name, number in zip(classes, images_with, strict=True) if number == 0]
    if not missing:
        return None
    advice = (
        "their scores are undefined here; if other splits have them, split anew (`segcore data split` gives each split "
        "its share of every class), else remove them from the end of the class list, or look whether masks count from 1"
    )
    message = f"no mask has the classes {_listed(missing)}; {advice}"
    return Suspicion("classes that never occur", message, tuple(missing[:MAX_NAMES]))


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - MAX_NAMES} more" if len(words) > MAX_NAMES else ""
    return ", ".join(words[:MAX_NAMES]) + more


def shared_pictures(splits: Mapping[str, Mapping[bytes, str]]) -> list[Suspicion]:
    """Return the pictures that two splits share, pixel by pixel.

    Args:
        splits: split -> hash of the pixels -> name of the image.
    """
    found: list[Suspicion] = []
    for (one, first), (other, second) in combinations(splits.items(), 2):
        pairs = [f"{one} {first[key]} = {other} {second[key]}" for key in first if key in second]
        if pairs:
            cause = f"{len(pairs)} pictures are in {one} and in {other}: scores would count what was learned by heart"
            advice = "remove them from one, or split anew (`segcore data split --group` keeps together what belongs so)"
            found.append(Suspicion("shared pictures", f"{cause}; {advice}", tuple(pairs[:MAX_NAMES])))
    return found
