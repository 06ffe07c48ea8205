"""Writing the next epoch: what the store must hold first, how failures are told, what is on disk after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keydist.core.accept import Held
from keydist.core.keyset import Keyset
from keydist.core.restart import Role
from keydist.core.successor import resealed
from keydist.core.token import BootstrapToken
from keydist.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    DiskError,
    DiskFullError,
    ForkError,
    KeydistError,
    MalformedError,
    OutdatedError,
    StoreTimeoutError,
    UnreachableError,
    WrongTokenError,
)
from keydist.services.advance import Advanced, advance, current_token
from keydist.services.node import Node
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.memory_disk import MemoryFolder, MemoryKeysetDisk
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import (
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    TOKEN,
    Change,
    altered,
    chain,
    demands,
    extend,
    first,
    hold,
)

ONE, TWO = chain(2)
BESIDE = extend(ONE, Change.ROTATE, name="beside ")


class Scene:
    """A leader that holds epoch 1, as the store does."""

    def __init__(self, *tokens: BootstrapToken) -> None:
        self.clock, self.bucket, self.folder = VirtualClock(), MemoryBucket(), MemoryFolder()
        self.store, self.disk = MemoryKeysetStore(self.bucket, self.clock), MemoryKeysetDisk(self.folder)
        self.bucket.put(ONE.envelope)
        self.install(ONE)
        self.demands = demands(tokens=tokens or (TOKEN,))

    def install(self, held: Held) -> None:
        other = MemoryKeysetDisk(self.folder)
        other.install(held, based_on=other.load((TOKEN,)), now=NOW)

    def at(self, call: str, what: Callable[[], object]) -> None:
        """Let something happen before a call, once."""

        def between(name: str) -> None:
            if name == call:
                self.store.between = None
                what()

        self.store.between = between

    def advance(
        self, build: Callable[[Held, int], Keyset] | None = None, *, token: BootstrapToken | None = None
    ) -> Advanced:
        node = Node(store=self.store, disk=self.disk, clock=self.clock, demands=self.demands, role=Role.LEADER)
        local = self.disk.load(self.demands.tokens)
        build = build or (lambda held, now: resealed(held, now=now))
        return asyncio.run(advance(node, local, build, entropy=NumberedEntropy("advance"), token=token))


def test_the_next_epoch_is_in_the_store_and_on_disk_and_confirmed() -> None:
    scene = Scene()
    scene.clock.advance(60)
    done = scene.advance()
    assert done.held == done.local.held == scene.folder.live
    assert (done.held.keyset.epoch, done.held.keyset.issued, done.held.token_id) == (2, NOW + 60, TOKEN.token_id)
    assert scene.bucket.content() == done.held.envelope
    assert scene.folder.confirmation is not None
    assert scene.folder.confirmation.digest == done.held.digest
    assert done.alarms == ()
    assert scene.store.calls == ["read_leader", "replace", "read_leader"]


@pytest.mark.parametrize(
    ("tokens", "wanted", "under"),
    [
        pytest.param((TOKEN, OTHER_TOKEN), None, TOKEN, id="the current one"),
        pytest.param((OTHER_TOKEN, TOKEN), None, TOKEN, id="the current one, whatever the order of lines"),
        pytest.param((TOKEN, OTHER_TOKEN), OTHER_TOKEN, OTHER_TOKEN, id="another, where that is what changes"),
    ],
)
def test_it_is_sealed_under_the_token_of_the_current_envelope(
    tokens: tuple[BootstrapToken, ...], wanted: BootstrapToken | None, under: BootstrapToken
) -> None:
    assert Scene(*tokens).advance(token=wanted).held.token_id == under.token_id


def test_without_the_current_token_nothing_can_be_written() -> None:
    scene = Scene(OTHER_TOKEN)
    with pytest.raises(WrongTokenError) as caught:
        scene.advance()
    assert caught.value.need == TOKEN.token_id
    with pytest.raises(WrongTokenError):
        current_token(ONE, demands(tokens=()))
    assert scene.bucket.writes == 1


def test_without_a_keyset_nothing_can_be_written() -> None:
    scene = Scene()
    scene.folder.live = None
    with pytest.raises(CorruptError, match="it is gone"):
        scene.advance()
    scene.folder.floor = None
    with pytest.raises(CorruptError, match="holds no keyset"):
        scene.advance()


@pytest.mark.parametrize(
    ("accident", "error"),
    [
        pytest.param(lambda scene: scene.bucket.put(TWO.envelope), OutdatedError, id="later"),
        pytest.param(lambda scene: scene.bucket.wipe(), ConflictError, id="wiped"),
        pytest.param(lambda scene: scene.bucket.delete(), ConflictError, id="deleted"),
        pytest.param(lambda scene: scene.bucket.drop(), ConflictError, id="no bucket"),
        pytest.param(lambda scene: scene.bucket.put(first("x", lineage=OTHER_LINEAGE).envelope), ForkError, id="fork"),
        pytest.param(lambda scene: scene.bucket.put(b"junk"), MalformedError, id="junk"),
        pytest.param(lambda scene: scene.store.fail("read", Fault.UNREACHABLE), UnreachableError, id="away"),
    ],
)
def test_nothing_is_written_over_what_is_not_this_nodes_keyset(
    accident: Callable[[Scene], object], error: type[KeydistError]
) -> None:
    scene = Scene()
    accident(scene)
    writes = scene.bucket.writes
    with pytest.raises(error) as caught:
        scene.advance()
    assert type(caught.value) is error
    assert (scene.bucket.writes, scene.folder.live) == (writes, ONE)
    assert "replace" not in scene.store.calls


def test_what_this_node_would_not_accept_itself_is_never_written() -> None:
    scene = Scene()
    with pytest.raises(ForkError):
        scene.advance(lambda _held, now: resealed(first("x", lineage=OTHER_LINEAGE), now=now))
    assert scene.bucket.writes == 1


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST])
def test_a_lost_acknowledgement_of_a_write_that_happened_is_no_failure(fault: Fault) -> None:
    scene = Scene()
    scene.store.fail("replace", fault)
    assert scene.advance().held.keyset.epoch == 2


@pytest.mark.parametrize(
    ("fault", "meanwhile", "error"),
    [
        pytest.param(Fault.TIMEOUT, None, StoreTimeoutError, id="no answer, and not there yet: nobody knows"),
        pytest.param(Fault.UNREACHABLE, None, StoreTimeoutError, id="no connection: nobody knows"),
        pytest.param(None, TWO.envelope, ConflictError, id="another epoch"),
        pytest.param(None, BESIDE.envelope, ConflictError, id="the other side of a race"),
        pytest.param(None, ONE.envelope, ConflictError, id="the same bytes, written again"),
        pytest.param(None, altered(ONE.envelope, -9), StoreTimeoutError, id="something that cannot be read"),
    ],
)
def test_what_was_not_read_back_was_not_installed(
    fault: Fault | None, meanwhile: bytes | None, error: type[KeydistError]
) -> None:
    scene = Scene()
    if fault is not None:
        scene.store.fail("replace", fault)
    if meanwhile is not None:
        scene.at("replace", lambda: scene.bucket.put(meanwhile))
    with pytest.raises(error) as caught:
        scene.advance()
    assert type(caught.value) is error
    assert caught.value.fix
    assert scene.folder.live == ONE


def test_what_is_overwritten_before_it_was_read_back_was_not_installed() -> None:
    scene = Scene()

    def overwritten() -> None:
        scene.at("read_leader", lambda: scene.bucket.put(first("x", lineage=OTHER_LINEAGE).envelope))

    scene.at("replace", overwritten)
    with pytest.raises(ConflictError, match="somebody else") as caught:
        scene.advance()
    assert caught.value.found == "another keyset"
    assert scene.folder.live == ONE


class Failing(MemoryKeysetDisk):
    """A disk whose calls fail by name, before or after they did what they do."""

    fails: dict[str, KeydistError]
    is_behind = False

    def install(self, new: Held, **given: Any) -> None:  # noqa: ANN401 - of the port
        if "install" in self.fails and not self.is_behind:
            raise self.fails["install"]
        super().install(new, **given)
        if "install" in self.fails:
            raise self.fails["install"]

    def confirm(self, confirmation: Any) -> None:  # noqa: ANN401 - of the port
        if "confirm" in self.fails:
            raise self.fails["confirm"]
        super().confirm(confirmation)


def failing(scene: Scene, *, is_behind: bool = False, **fails: KeydistError) -> None:
    scene.disk = Failing(scene.folder)
    scene.disk.fails, scene.disk.is_behind = fails, is_behind


def test_a_disk_that_does_not_take_the_new_epoch_is_the_answer_and_the_old_stays() -> None:
    scene = Scene()
    failing(scene, install=DiskFullError("no space is left"))
    with pytest.raises(DiskFullError):
        scene.advance()
    assert scene.folder.live == ONE


def test_a_disk_that_fails_behind_the_installation_is_an_alarm() -> None:
    scene = Scene()
    failing(scene, is_behind=True, install=DiskError("i/o error"))
    done = scene.advance()
    assert [alarm.code for alarm in done.alarms] == ["disk"]
    assert scene.folder.live == done.held


@pytest.mark.parametrize("failure", [DiskError("i/o error"), BusyError("locked")], ids=lambda error: error.code)
def test_a_confirmation_that_cannot_be_kept_is_an_alarm(failure: KeydistError) -> None:
    scene = Scene()
    failing(scene, confirm=failure)
    assert scene.advance().alarms == (failure,)


def test_another_process_that_installed_the_same_epoch_is_no_conflict() -> None:
    scene = Scene()

    def faster() -> None:
        envelope = scene.bucket.content()
        assert envelope is not None
        other = MemoryKeysetDisk(scene.folder)
        keyset = resealed(ONE, now=NOW)
        new = Held(keyset=keyset, envelope=envelope, plaintext=hold(keyset).plaintext, token_id=TOKEN.token_id)
        other.install(new, based_on=other.load((TOKEN,)), now=NOW)

    scene.at("replace", lambda: scene.at("read_leader", faster))
    done = scene.advance()
    assert done.held == scene.folder.live
    assert done.alarms == ()


def test_another_process_that_reset_the_node_meanwhile_is_told() -> None:
    scene = Scene()
    scene.at("replace", lambda: scene.at("read_leader", lambda: MemoryKeysetDisk(scene.folder).reset()))
    with pytest.raises(CorruptError, match="not on disk"):
        scene.advance()
