"""A node is stopped before every call to the store: there is one lineage, and a restart finishes the work (P1, P5).

A stop after a write and before it was read back is the stop before the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from keydist.core.accept import Held
from keydist.core.envelope import parse_envelope
from keydist.core.restart import Role
from tests.crash.state import Machine, StateDirectory
from tests.fakes.faulty_system import Crash
from tests.fakes.memory_store import MemoryBucket
from tests.material import LINEAGE, OTHER_LINEAGE, Change, chain, extend, first, floor_of

ONE, TWO, THREE = chain(3)
OTHER_HISTORY = first("other ", lineage=OTHER_LINEAGE)

Prepare = Callable[[Path], Machine]


def every_stop(folder: Path, prepare: Prepare, *, role: Role, genesis: Held | None = None) -> Iterator[Machine]:
    """Start a node once for each of its calls to the store, stop it before that call, and yield what is left."""
    for number in count(1):
        machine = prepare(folder / str(number))
        calls: list[str] = []

        def stop_or_go_on(call: str, number: int = number, calls: list[str] = calls) -> None:
            calls.append(call)
            if len(calls) >= number:
                raise Crash

        try:
            machine.start(role=role, genesis=genesis, before_call=stop_or_go_on)
        except Crash:
            yield machine
        else:
            assert number > 1
            return


def has_settled(machine: Machine, held: Held) -> bool:
    local = machine.state.load()
    assert (local.damage, local.alarms) == (None, ())
    return (local.held, local.floor, machine.bucket.content()) == (held, floor_of(held), held.envelope)


@pytest.mark.parametrize("exists", [True, False], ids=["an empty bucket", "no bucket"])
def test_a_stopped_genesis_never_begins_a_second_lineage(folder: Path, *, exists: bool) -> None:
    def prepare(base: Path) -> Machine:
        return Machine(StateDirectory(base), MemoryBucket(exists=exists))

    stops = 0
    for machine in every_stop(folder, prepare, role=Role.LEADER, genesis=ONE):
        stops += 1
        assert machine.state.load().held in (None, ONE)
        assert machine.bucket.content() in (None, ONE.envelope)
        is_written = machine.bucket.content() is not None
        machine.start(genesis=None if is_written else OTHER_HISTORY)
        assert has_settled(machine, ONE if is_written else OTHER_HISTORY)
        assert machine.bucket.writes == 1
    assert stops >= 3  # read, write, read back


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("old", [None, ONE], ids=["nothing", "an earlier epoch"])
def test_a_stopped_acceptance_is_done_by_the_restart(folder: Path, role: Role, old: Held | None) -> None:
    def prepare(base: Path) -> Machine:
        bucket = MemoryBucket()
        bucket.put(TWO.envelope)
        state = StateDirectory(base)
        return Machine(state if old is None else state.install(old), bucket)

    for machine in every_stop(folder, prepare, role=role):
        assert machine.state.load().held in (old, TWO)
        outcome = machine.start(role=role)
        assert outcome.held == TWO
        assert has_settled(machine, TWO)
        assert machine.bucket.writes == 1


def purged(bucket: MemoryBucket) -> None:
    bucket.put(TWO.envelope)
    bucket.purge()


def deleted(bucket: MemoryBucket) -> None:
    bucket.put(TWO.envelope)
    bucket.delete()


def put_back_to_an_ancestor(bucket: MemoryBucket) -> None:
    bucket.put(ONE.envelope)


LOSSES: list[Callable[[MemoryBucket], None]] = [
    MemoryBucket.drop,
    MemoryBucket.wipe,
    purged,
    deleted,
    put_back_to_an_ancestor,
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_stopped_republication_is_done_by_the_restart(folder: Path, loss: Callable[[MemoryBucket], None]) -> None:
    def prepare(base: Path) -> Machine:
        bucket = MemoryBucket()
        loss(bucket)
        return Machine(StateDirectory(base).install(ONE, TWO), bucket)

    stops = 0
    for machine in every_stop(folder, prepare, role=Role.LEADER):
        stops += 1
        assert machine.state.load().held == TWO
        assert machine.start().held == TWO
        assert has_settled(machine, TWO)
        assert lineage_in(machine.bucket) == LINEAGE
    assert stops >= 3  # read, write, read back


def test_a_follower_that_is_stopped_while_the_epoch_moves_on_ends_with_the_last(folder: Path) -> None:
    four = extend(THREE, Change.ROTATE)

    def prepare(base: Path) -> Machine:
        bucket = MemoryBucket()
        bucket.put(TWO.envelope)
        return Machine(StateDirectory(base).install(ONE), bucket)

    for machine in every_stop(folder, prepare, role=Role.FOLLOWER):
        machine.bucket.put(THREE.envelope)
        machine.bucket.put(four.envelope)
        machine.start(role=Role.FOLLOWER)
        assert has_settled(machine, four)


def lineage_in(bucket: MemoryBucket) -> str:
    content = bucket.content()
    assert content is not None
    return parse_envelope(content).header.lineage
