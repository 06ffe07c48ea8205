"""Several processes on one state directory: one installs at a time, and none over what it has not seen."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keydist.core.local import Confirmation
from keydist.errors import BusyError, ConflictError
from tests.crash.state import StateDirectory
from tests.fakes.faulty_system import FaultySystem
from tests.material import NOW, chain

ONE, TWO, THREE = chain(3)
CHECKOUT = Path(__file__).parents[2]
HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
RACE = """
import sys
from pathlib import Path
from keydist.errors import ConflictError
from tests.crash.state import StateDirectory
from tests.material import NOW, chain
state = StateDirectory(Path(sys.argv[1]))
local = state.load()
print("ready", flush=True)
sys.stdin.readline()
try:
    state.disk().install(chain(2)[1], based_on=local, now=NOW)
    print("installed")
except ConflictError:
    print("conflict")
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path).install(ONE)


def python(code: str, argument: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(argument)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def held_by_another_process(state: StateDirectory) -> Iterator[None]:
    process = python(HOLD, state.path / "lock")
    assert said(process) == "held"
    try:
        yield
    finally:
        process.communicate("")


class Time:
    """Time that passes by sleeping; what is to happen at a moment happens then."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.lock: int | None = None

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        if self.lock is not None and self.passed > 1:
            os.close(self.lock)
            self.lock = None

    def system(self) -> FaultySystem:
        return FaultySystem(instead={"sleep": self.sleep, "monotonic": lambda: self.passed})


def write(state: StateDirectory, name: str, system: FaultySystem) -> None:
    disk, local = state.disk(system), state.load()
    match name:
        case "install" | "override":
            getattr(disk, name)(TWO, based_on=local, now=NOW)
        case "settle":
            disk.settle(local, now=NOW)
        case "confirm":
            disk.confirm(Confirmation(epoch=1, digest=ONE.digest, at=NOW))
        case "quarantine":
            disk.quarantine(b"refused")
        case _:
            disk.reset()


@pytest.mark.parametrize("name", ["install", "override", "settle", "confirm", "quarantine", "reset"])
def test_whoever_writes_while_another_process_holds_the_lock_gives_up(state: StateDirectory, name: str) -> None:
    state.path.joinpath("seen.json").unlink()  # something to settle
    before = state.files()
    time = Time()
    with held_by_another_process(state), pytest.raises(BusyError) as caught:
        write(state, name, time.system())
    assert 10 <= time.passed < 11
    assert caught.value.exit_code == 75
    assert str(state.path / "lock") in caught.value.fix
    assert state.files() == before


def test_a_reader_needs_no_lock(state: StateDirectory) -> None:
    with held_by_another_process(state):
        assert state.load().held == ONE
        state.disk(Time().system()).settle(state.load(), now=NOW)


def test_a_lock_that_is_let_go_of_in_time_is_taken(state: StateDirectory) -> None:
    time = Time()
    time.lock = os.open(state.path / "lock", os.O_RDWR)
    fcntl.flock(time.lock, fcntl.LOCK_EX)
    state.disk(time.system()).install(TWO, based_on=state.load(), now=NOW)
    assert 1 < time.passed < 2
    assert state.load().held == TWO


def test_of_processes_that_install_at_once_one_does(state: StateDirectory) -> None:
    racers = [python(RACE, state.base) for _ in range(3)]
    assert [said(racer) for racer in racers] == ["ready"] * 3
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sorted(racer.communicate()[0].strip() for racer in racers) == ["conflict", "conflict", "installed"]
    assert state.load().held == TWO
    assert state.leftovers() == []


@pytest.mark.parametrize("name", ["install", "override", "settle"])
def test_what_was_installed_meanwhile_is_not_overwritten(state: StateDirectory, name: str) -> None:
    before = state.load()
    state.install(TWO)
    state.path.joinpath("seen.json").unlink()
    after, disk = state.files(), state.disk()
    with pytest.raises(ConflictError):
        disk.settle(before, now=NOW) if name == "settle" else getattr(disk, name)(TWO, based_on=before, now=NOW)
    assert state.files() == after


def test_a_first_keyset_that_another_process_installed_is_not_overwritten(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    before = state.load()
    state.install(ONE)
    with pytest.raises(ConflictError, match="the first keyset"):
        state.disk().install(TWO, based_on=before, now=NOW)
    state.path.joinpath("live").unlink()
    with pytest.raises(ConflictError, match="the first keyset"):
        state.disk().install(TWO, based_on=before, now=NOW)
    assert state.names("archive") == ["000001"]
