"""Takes from this Python what one on Windows lacks, in every process that starts with this folder on PYTHONPATH.

Libraries keep what they need as they are built for this system: modules of Unix are missing for ours only.
"""

from __future__ import annotations

import builtins
import multiprocessing
import os
import signal
import warnings
from typing import Any

OURS = ("segcore",)
UNIX = ("fcntl", "resource", "pwd", "grp", "termios")
NAMES = {
    signal: ("alarm", "setitimer", "SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1"),
    os: ("O_DIRECTORY", "O_NOFOLLOW", "sched_getaffinity"),
}


def import_no_unix(name: str, scope: Any = None, *rest: Any, _import: Any = builtins.__import__, **options: Any) -> Any:
    """The import statement of Windows, for modules of ours."""
    if name in UNIX and (scope or {}).get("__name__", "").partition(".")[0] in OURS:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, scope, *rest, **options)


def open_files_only(path: Any, *arguments: Any, _open: Any = os.open, **options: Any) -> int:
    """os.open of Windows, which opens no folder."""
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return _open(path, *arguments, **options)


builtins.__import__ = import_no_unix
for module, names in NAMES.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
os.open = open_files_only
multiprocessing.set_start_method("spawn")
# text without an encoding is something else there
warnings.filterwarnings("error", category=EncodingWarning, module="segcore")
