"""Reading of files made by `torch.save`, without running anything that is in them.

Published `.pth` checkpoints (docs/protocol 7) are pickles. They are read with `weights_only=True` and a short list of
harmless numpy names beside torch's own; everything else is refused with a sentence that says what was in the file.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcore.errors import InputError
from segcore.weights.checksums import compare
from segcore.weights.header import require_checkpoint

STATE_FORMAT = "segcore training state"
"""Value of the entry `format` in our training states, which are no checkpoints."""

DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    AssertionError,
    struct.error,
)
"""What readers stumble over in a file that is cut off, changed or something else altogether."""
_NUMERIC = "?bhilqBHILQefd"


def _allowed() -> list[Any]:
    """Return what numpy scalars and arrays are rebuilt with, by the names of numpy 1 and 2; numbers and text only."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        *((scalar, f"{module}.scalar") for module in modules),
        *((array, f"{module}._reconstruct") for module in modules),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in (*_NUMERIC, "U1")},
    ]


def read_torch_file(path: Path, *, unsafe: bool = False) -> Any:
    """Return the content of a file made by `torch.save`, on the CPU.

    Args:
        unsafe: unpickle without restriction, which runs code of the file; only for files of trusted origin.

    Raises:
        InputError: if the file is absent, damaged, no such file, or holds more than tensors and plain data.
    """
    require_checkpoint(path)
    compare(path)
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from error
    except ImportError as error:
        raise InputError(f"{path} holds objects of a package that is not installed ({error}); install it") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise InputError(f"{path} is truncated or no file of torch.save; copy or download it again") from error


def is_state(content: Any) -> bool:
    """Return whether the content of a file is a training state of ours."""
    return isinstance(content, Mapping) and content.get("format") == STATE_FORMAT and "state" in content


def _refusal(path: Path, message: str) -> str:
    """Turn the unpickler's message into one sentence."""
    found = re.search(r"GLOBAL ([\w.]+)|function ([\w.]+)|class ([\w.]+)", message)
    if "weights_only" not in message.lower() and "Weights only" not in message:
        return f"{path} is truncated or no file of torch.save; copy or download it again"
    if found is None:
        return (
            f"{path} is no file of torch.save, or holds what only code could rebuild; expected tensors and plain data"
        )
    name = next(group for group in found.groups() if group)
    return (
        f"{path} would run code when loaded: it holds {name}, expected tensors and plain data only; "
        "save its state_dict alone, or pass --unsafe if you trust where it comes from"
    )


@dataclass(frozen=True)
class PublishedFile:
    """A published checkpoint.

    Attributes:
        tensors: by published names, without the prefix `module.` of data-parallel training.
        meta: what the file says beside them: its `meta` (CLASSES, PALETTE, iter, ...) or its counters.
    """

    tensors: dict[str, Tensor]
    meta: Mapping[str, Any]


def read_published(path: Path, *, unsafe: bool = False) -> PublishedFile:
    """Read a published checkpoint: the tensors under `state_dict`, `model` or at the top.

    Raises:
        InputError: see `read_torch_file`; also if there are no tensors in any of these places.
    """
    content = read_torch_file(path, unsafe=unsafe)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a dictionary of tensors")
    if is_state(content):
        raise InputError(f"{path} is a training state; give the .safetensors file beside it, or --resume-from it")
    inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    tensors = {str(name).removeprefix("module."): t.detach() for name, t in inner.items() if isinstance(t, Tensor)}
    if not tensors:
        entries = ", ".join(str(key) for key in list(content)[:10]) or "nothing"
        raise InputError(f"{path} holds no tensors under state_dict, model or at the top level, only {entries}")
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        meta = {key: value for key, value in content.items() if isinstance(value, (int, float, str))}
    return PublishedFile(tensors, meta)
