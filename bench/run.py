"""Runs the benchmarks and writes what they print into RESULTS.md, with machine, versions and date.

python bench/run.py [NAME ...] [-- OPTION ...]   NAME: pipeline, evaluation, ... (default: all); options go to each

`against` needs checkouts of published code, so only its name starts it; its section is one of each paper's.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
NEEDS_CHECKOUTS = "against"


def machine() -> str:
    """Return one line about processor, cores and versions."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    model = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "opencv-python", "numpy"))
    return f"{model}, {len([line for line in _cpuinfo() if line.startswith('processor')])} cores; {libraries}"


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def sections() -> dict[str, str]:
    """Return the sections of RESULTS.md by their names, to keep those not measured now."""
    if not RESULTS.exists():
        return {}
    parts = RESULTS.read_text().split("\n## ")[1:]
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].strip() for part in parts}


def main() -> int:
    """Run the named benchmarks; returns 1 if one failed."""
    available = {file.stem: file for file in sorted(FOLDER.glob("*.py")) if file.name != "run.py"}
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    names, options = words[:split], words[split + 1 :]
    names = names or [name for name in available if name != NEEDS_CHECKOUTS]
    unknown = sorted(set(names) - set(available))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(available)}", file=sys.stderr)
        return 2
    results, failed = sections(), False
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, str(available[name]), *options], capture_output=True, text=True, check=False
        )
        print(done.stdout + done.stderr, flush=True)
        if done.returncode:
            failed = True
            continue
        title = f"{name} {options[0]}" if name == NEEDS_CHECKOUTS else name  # a paper at a time
        title += " on a GPU" if "cuda" in options else ""
        results[title] = f"{datetime.date.today()}, {machine()}\n\n{done.stdout.strip()}"
    body = "\n\n".join(f"## {name}\n\n{results[name]}" for name in sorted(results))
    head = (
        "# Benchmark results\n\nWritten by `nox -s bench`; ratios are against the plain form in the same run, those of "
        "the sections `against` against the published code."
    )
    RESULTS.write_text(f"{head}\n\n{body}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
