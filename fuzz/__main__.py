"""Fuzz parsers with atheris, each in a process of its own: `make fuzz`, `make fuzz ARGS="--seconds 600 envelope"`.

What was found new is kept in the corpus (`.fuzz/<target>`), and a finding beside it; `--again FILE TARGET` repeats it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from fuzz.targets import TARGETS
from keydist.errors import KeydistError

_CORPUS: Final = Path(".fuzz")
_MOST: Final = 8192
"""No input is longer: what a parser does with more is bounded by its first test, and by the tests."""


def main() -> int:
    """Run what was asked for; return 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--again", type=Path, metavar="FILE", help="give a target one input")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    targets = asked.targets or list(TARGETS)
    if asked.again:
        TARGETS[targets[0]].check(asked.again.read_bytes())
        return 0
    if asked.in_this_process:
        return _fuzz(targets[0], asked.seconds)
    return _each(targets, seconds=asked.seconds, jobs=asked.jobs)


def _each(targets: list[str], *, seconds: int, jobs: int) -> int:
    """Fuzz several targets, `jobs` at once; print a line for each as it ends."""
    waiting, running, found = list(targets), dict[str, subprocess.Popen[str]](), 0
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            command = [sys.executable, "-m", "fuzz", "--in-this-process", "--seconds", str(seconds), name]
            running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        name, process = next(((n, p) for n, p in running.items() if p.poll() is not None), ("", None))
        if process is None:
            time.sleep(0.2)
            continue
        del running[name]
        said = process.stderr.read().splitlines() if process.stderr else []
        found += process.returncode != 0
        done = next((line for line in reversed(said) if line.startswith("stat::number_of_executed_units")), "")
        print(f"{name}: {'FOUND' if process.returncode else 'nothing'} in {done.rpartition(' ')[2] or '?'} inputs")
        if process.returncode:
            print("\n".join(said[-40:]))
    return 1 if found else 0


def _fuzz(name: str, seconds: int) -> int:
    """Fuzz one target until the time is over or something is found; atheris ends the process."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 - only where `make fuzz` installed it

    target, corpus = TARGETS[name], _CORPUS / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    @atheris.instrument_func  # type: ignore[untyped-decorator]
    def one(raw: bytes) -> None:
        with suppress(KeydistError):
            target.check(raw)

    atheris.instrument_all()
    switches = [
        f"-max_total_time={seconds}",
        f"-max_len={_MOST}",
        f"-artifact_prefix={corpus}.",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *switches], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
