"""A leader is stopped anywhere while it writes the next epoch: disk and store hold the old one or the new, whole (P5).

The disk never holds an epoch that the store does not, and a restart ends with both at the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.disk.system import System
from keydist.core.accept import Held
from keydist.core.keyset import Keyset
from keydist.core.restart import Role
from keydist.core.successor import resealed, rotated
from keydist.core.token import BootstrapToken
from keydist.services.advance import Advanced, advance
from keydist.services.node import Node
from tests.crash.state import Machine, StateDirectory
from tests.crash.stops import Stop, every_stop
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.faulty_system import Crash, FaultySystem
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import NOW, OTHER_TOKEN, TOKEN, chain, demands, floor_of, fresh_keys

ONE, TWO = chain(2)
LATER = NOW + 3600


def rotate(held: Held, now: int) -> Keyset:
    return rotated(held, now=now, alg="EdDSA", fresh=fresh_keys("fresh"))


def reseal(held: Held, now: int) -> Keyset:
    return resealed(held, now=now)


Build = Callable[[Held, int], Keyset]
KINDS = [pytest.param(rotate, None, id="a rotation"), pytest.param(reseal, OTHER_TOKEN, id="another token")]


def run(
    state: StateDirectory,
    bucket: MemoryBucket,
    build: Build,
    token: BootstrapToken | None,
    *,
    system: System | None = None,
    before_call: Callable[[str], None] | None = None,
    fault: Fault | None = None,
) -> Advanced:
    """Write the next epoch as a process does that is started for it."""
    clock = VirtualClock(LATER)
    store, disk = MemoryKeysetStore(bucket, clock), state.disk(system)
    store.between = before_call
    if fault is not None:
        store.fail("replace", fault)
    node = Node(store=store, disk=disk, clock=clock, demands=demands(tokens=(TOKEN, OTHER_TOKEN)), role=Role.LEADER)
    local = disk.load(node.demands.tokens)
    return asyncio.run(advance(node, local, build, entropy=NumberedEntropy("advance"), token=token))


def begun() -> MemoryBucket:
    bucket = MemoryBucket()
    bucket.put(TWO.envelope)
    return bucket


def written(folder: Path, build: Build, token: BootstrapToken | None) -> Held:
    """Return the epoch that is written where nothing stops it."""
    return run(StateDirectory(folder).install(ONE, TWO), begun(), build, token).held


def settled(state: StateDirectory, bucket: MemoryBucket) -> Held:
    """Start the node anew, with both tokens, and return what it holds then; the store must hold the same."""
    machine = Machine(state, bucket)
    machine.clock.advance(LATER - NOW)
    held = machine.start(tokens=(TOKEN, OTHER_TOKEN)).held
    local = state.load(TOKEN, OTHER_TOKEN)
    assert (local.held, local.damage, local.alarms) == (held, None, ())
    superseded = frozenset({TOKEN.token_id}) if held.token_id != TOKEN.token_id else frozenset[str]()
    assert local.floor == floor_of(held, superseded=superseded)
    assert bucket.content() == held.envelope
    assert state.leftovers() == []
    return held


@pytest.mark.parametrize(("build", "token"), KINDS)
@pytest.mark.parametrize("stop", Stop)
def test_a_stop_before_any_system_call_leaves_old_or_new_and_a_restart_finishes(
    folder: Path, stop: Stop, build: Build, token: BootstrapToken | None
) -> None:
    new = written(folder / "undisturbed", build, token)
    buckets: dict[Path, MemoryBucket] = {}
    left: set[tuple[int, int]] = set()

    def work(base: Path, system: System) -> None:
        buckets[base] = begun()
        run(StateDirectory(base), buckets[base], build, token, system=system)

    def prepare(base: Path) -> StateDirectory:
        return StateDirectory(base).install(ONE, TWO)

    for stopped in every_stop(folder, stop, prepare, work, lambda base: buckets[base].content()):
        state, bucket = StateDirectory(stopped.base), buckets[stopped.base]
        local = state.load(TOKEN, OTHER_TOKEN)
        assert local.held in (TWO, new), stopped.where
        assert local.damage is None, stopped.where
        assert bucket.content() in (TWO.envelope, new.envelope), stopped.where
        if local.held == new:
            assert bucket.content() == new.envelope, stopped.where
        left.add((local.held.keyset.epoch, bucket.writes))
        assert settled(state, bucket) == (new if bucket.writes == 2 else TWO), stopped.where
    assert left >= {(2, 2), (3, 2)}, "stopped on both sides of the installation"


@pytest.mark.parametrize(("build", "token"), KINDS)
@pytest.mark.parametrize("fault", [None, Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST])
def test_a_stop_before_any_store_call_leaves_old_or_new_and_a_restart_finishes(
    folder: Path, fault: Fault | None, build: Build, token: BootstrapToken | None
) -> None:
    new = written(folder / "undisturbed", build, token)
    calls: list[str] = []
    run(StateDirectory(folder / "0").install(ONE, TWO), begun(), build, token, before_call=calls.append)
    assert calls == ["read_leader", "replace", "read_leader"]
    for number, call in enumerate(calls):
        state, bucket, left = StateDirectory(folder / f"stop {number}").install(ONE, TWO), begun(), number

        def stop(_call: str) -> None:
            nonlocal left
            if not left:
                raise Crash
            left -= 1

        with pytest.raises(Crash):
            run(state, bucket, build, token, before_call=stop, fault=fault)
        assert state.load(TOKEN, OTHER_TOKEN).held == TWO, "nothing is installed that was not read back"
        assert bucket.writes == (2 if number == 2 else 1), call
        assert settled(state, bucket) == (new if number == 2 else TWO)


def test_no_system_call_of_an_installation_comes_before_the_epoch_is_in_the_store(folder: Path) -> None:
    state, bucket, system = StateDirectory(folder).install(ONE, TWO), begun(), FaultySystem()

    def nothing_is_written(_call: str) -> None:
        assert not [call for call in system.calls if call.name in ("write", "rename", "symlink", "mkdir")]

    run(state, bucket, rotate, None, system=system, before_call=nothing_is_written)
    assert bucket.writes == 2
