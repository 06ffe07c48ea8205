"""Running one piece of work once for every point at which its process may stop.

A process is killed, and what it did stays; or the power is cut, and what was not synced is lost, with the entries
of directories or with the content of files only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from keydist.adapters.disk.system import System
from tests.fakes.faulty_system import Crash, Fault, FaultySystem, LossySystem, at


class Stop(Enum):
    """How a process ends in the middle of its work."""

    KILLED = "killed"
    POWER_CUT = "the power is cut"
    CONTENT_LOST = "the power is cut, and directories were written before files"


@dataclass(frozen=True, slots=True)
class Stopped:
    """What is left of one run. `finished`: it was stopped right after its last call."""

    base: Path
    where: str
    finished: bool


Work = Callable[[Path, System], object]


def every_stop(
    folder: Path,
    stop: Stop,
    prepare: Callable[[Path], object],
    work: Work,
    beside: Callable[[Path], object] = lambda _base: None,
) -> Iterator[Stopped]:
    """Prepare and work in a new folder for each system call of `work`, stop before it, and yield what is left.

    What is the same as after the stop before, on disk and `beside` it, is not yielded again.
    """
    counted = FaultySystem()
    prepare(folder / "0")
    work(folder / "0", counted)
    calls = [call for call in counted.calls if stop is Stop.KILLED or call.changes_the_disk()]
    places = [(call.number, f"stopped before {call}") for call in calls]
    places.append((len(counted.calls) + 1, "stopped after everything"))
    base, before = folder / "now", None
    for number, where in places:
        prepare(base)
        finished = _is_finished(base, stop, work, at(number, Crash()))
        found = _content(base), beside(base)
        if finished or found != before:
            yield Stopped(base=base, where=where, finished=finished)
        before = found
        shutil.rmtree(base, ignore_errors=True)


def _is_finished(base: Path, stop: Stop, work: Work, fault: Fault) -> bool:
    """Work until the fault, then leave the folder as this kind of stop does; tell whether nothing remained to do."""
    attic = base.parent / "attic"
    system = FaultySystem(fault) if stop is Stop.KILLED else LossySystem(attic, fault)
    finished = False
    try:
        work(base, system)
        finished = True
    except Crash:
        pass
    if isinstance(system, LossySystem):
        system.cut_power(entries=stop is Stop.POWER_CUT)
        shutil.rmtree(base / "run", ignore_errors=True)  # a runtime directory is in memory
        shutil.rmtree(attic)
    return finished


def _content(folder: Path) -> dict[str, object]:
    """Return every entry of a folder with its mode, and its content or target."""
    found: dict[str, object] = {}
    for entry in os.scandir(folder) if folder.exists() else ():
        if entry.is_symlink():
            found[entry.name] = Path(entry.path).readlink()
        elif entry.is_dir():
            found[entry.name] = _content(Path(entry.path))
        else:
            found[entry.name] = (entry.stat().st_mode, Path(entry.path).read_bytes())
    return found
