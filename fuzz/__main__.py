"""Fuzz parsers with atheris, each in a process of its own: `make fuzz`, `make fuzz ARGS="--seconds 600 envelope"`.

What was found new is kept in the corpus (`.fuzz/<target>`), and a finding beside it; `--again FILE TARGET` repeats it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final, NamedTuple

from fuzz.targets import MODULE_OF, TARGETS

_CORPUS: Final = Path(".fuzz")
_EXECUTED: Final = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_LASTED: Final = re.compile(r"^Done \d+ runs in (\d+) second", re.MULTILINE)
_REACHED: Final = re.compile(r"\bcov: (\d+) ft: (\d+)")
_SHOWN: Final = 40


class _Running(NamedTuple):
    """A target that is being fuzzed, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]


def main() -> int:
    """Run what was asked for; return 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--again", type=Path, metavar="FILE", help="give a target one input")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    targets = asked.targets or list(TARGETS)
    if asked.again:
        TARGETS[targets[0]].check(asked.again.read_bytes())
        return 0
    return _each(targets, seconds=asked.seconds, jobs=asked.jobs)


def _each(targets: list[str], *, seconds: int, jobs: int) -> int:
    """Fuzz several targets, `jobs` at once; print a line for each as it ends."""
    waiting, running, found = list(targets), list[_Running](), 0
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_started(waiting.pop(0), seconds))
        ended = next((one for one in running if one.process.poll() is not None), None)
        if ended is None:
            time.sleep(0.2)
            continue
        running.remove(ended)
        found += ended.process.returncode != 0
        _tell(ended)
    return 1 if found else 0


def _started(name: str, seconds: int) -> _Running:
    said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would stop it
    command = [sys.executable, "-m", "fuzz.one", str(seconds), str(_CORPUS), MODULE_OF[name], name]
    return _Running(name, subprocess.Popen(command, stdout=said, stderr=said), said)


def _tell(ended: _Running) -> None:
    ended.said.seek(0)
    said = ended.said.read().decode("utf-8", "replace")
    inputs, seconds, reached = (found.findall(said)[-1:] for found in (_EXECUTED, _LASTED, _REACHED))
    branches, features = reached[0] if reached else ("?", "?")
    verdict = "FOUND" if ended.process.returncode else "nothing"
    line = f"{ended.name}: {verdict} in {(*inputs, '?')[0]} inputs, {(*seconds, '?')[0]} s"
    print(f"{line}; {branches} branches, {features} features", flush=True)
    if ended.process.returncode:
        print("\n".join(said.splitlines()[-_SHOWN:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
