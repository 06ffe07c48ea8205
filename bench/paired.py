"""Timing whole processes in pairs: one command, then the other, in turn, so that a drifting machine hits both."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

PYTHON_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KEYDIST"))}
"""No switch that keeps Python from using its bytecode, no setting of the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Milliseconds of each run, run by run."""

    ours: tuple[float, ...]
    bare: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Return the ratio of the medians."""
        return statistics.median(self.ours) / statistics.median(self.bare)


def run_once(command: list[str], expected: str) -> float:
    """Return the milliseconds of one run, which must succeed and print `expected`."""
    start = time.perf_counter()
    done = subprocess.run(command, env=PYTHON_ENVIRONMENT, capture_output=True, text=True, check=False)
    spent = (time.perf_counter() - start) * 1000
    if done.returncode or expected not in done.stdout:
        sys.exit(f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return spent


def paired(
    ours: list[str], bare: list[str], *, runs: int, expected: str, before: Callable[[], None] = lambda: None
) -> Paired:
    """Run both commands in turn, `runs` times after a warm-up of two, each after `before`."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 2):
        order = ((0, ours), (1, bare)) if turn % 2 else ((1, bare), (0, ours))
        for index, command in order:
            before()
            spent = run_once(command, expected)
            if turn > 1:
                times[index].append(spent)
    return Paired(ours=tuple(times[0]), bare=tuple(times[1]))


def report(name: str, result: Paired, *, target: float) -> bool:
    """Print a row of the result; tell whether the target was met."""
    ours, bare = statistics.median(result.ours), statistics.median(result.bare)
    met = result.ratio <= target
    print(
        f"{name:<28} keydist {ours:6.1f} ms ({min(result.ours):.1f}-{max(result.ours):.1f})"
        f"   bare {bare:6.1f} ms ({min(result.bare):.1f}-{max(result.bare):.1f})"
        f"   ratio {result.ratio:.3f} (target {target}, {'met' if met else 'MISSED'}), n={len(result.ours)}"
    )
    return met
