"""Signer: it mints with the active key of the keyset on disk, follows by itself, and stops where its lease does."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keydist
from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.jws import parse_compact
from keydist.core.keyset import State
from keydist.core.local import Confirmation, Local
from keydist.core.policy import Policy
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken, format_token
from keydist.errors import (
    BusyError,
    ClockBehindError,
    CorruptError,
    DiskError,
    ForkError,
    InternalError,
    KeydistError,
    LeaseExpiredError,
    NotYetError,
    UnsafeFileError,
    UsageError,
    WrongUserError,
)
from keydist.signing import Signer, Verifier
from tests.crash.state import StateDirectory
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import NOW, OTHER_LINEAGE, OTHER_TOKEN, TOKEN, Change, demands, extend, first, hold, make_keyset

FIRST = first()
SECOND = extend(FIRST, Change.ROTATE)
LEASE = Policy().mint_lease
CLAIMS = {"scope": "read"}


class FailingDisk(MemoryKeysetDisk):
    """A disk whose loads fail while `failure` is set."""

    failure: Exception | None = None
    loads = 0

    def load(self, tokens: tuple[BootstrapToken, ...]) -> Local:
        self.loads += 1
        if self.failure is not None:
            raise self.failure
        return super().load(tokens)


class Tally:
    """Counts as `Mints` does."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.is_closed = False

    def minted(self, kid: str, expires: int) -> None:
        self.seen.append((kid, expires))

    def close(self) -> None:
        self.is_closed = True


class Node:
    """One node's disk, and a signer and a verifier in a process beside it."""

    def __init__(self, held: Held | None = FIRST, *, confirmed: int | None = NOW) -> None:
        self.disk = FailingDisk()
        self.clock = VirtualClock(NOW)
        self.tally = Tally()
        if held is not None:
            self.install(held, confirmed=confirmed)
        self.signer = Signer(self.disk, self.clock, issuer="https://issuer", mints=self.tally)
        self.verifier = Verifier(self.disk, self.clock)

    def install(self, held: Held, *, confirmed: int | None = None) -> None:
        self.disk.install(held, based_on=self.disk.load(()), now=NOW)
        if confirmed is not None:
            self.confirm(held, confirmed)

    def confirm(self, held: Held, at: int) -> None:
        self.disk.confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=at))

    def mint(self, **options: Any) -> str:  # noqa: ANN401
        return self.signer.mint(CLAIMS, **({"subject": "someone", "audience": "api"} | options))

    def kid(self) -> str:
        """Mint, and return the kid under which that was done."""
        return parse_compact(self.mint()).header.kid

    def refusal(self) -> KeydistError:
        with pytest.raises(KeydistError) as caught:
            self.mint()
        return caught.value


def test_what_a_node_mints_the_node_verifies() -> None:
    node = Node()
    claims = node.verifier.verify(node.mint(lifetime=60), audience="api", issuer="https://issuer")
    assert dict(claims.all) == {
        "iss": "https://issuer",
        "sub": "someone",
        "aud": "api",
        "exp": NOW + 60,
        "iat": NOW,
        "scope": "read",
    }
    assert claims.kid == FIRST.keyset.active.kid
    assert node.tally.seen == [(claims.kid, NOW + 60)]


def test_issuer_audiences_and_type_may_be_given() -> None:
    node = Node()
    jwt = node.mint(issuer="https://other", audience=("a", "b"), typ="at+jwt")
    claims = node.verifier.verify(jwt, audience="b", issuer="https://other", typ="at+jwt")
    assert claims.audience == ("a", "b")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        pytest.param({"lifetime": Policy().max_lifetime + 1}, "86400", id="a lifetime beyond L"),
        pytest.param({"lifetime": 0}, "live", id="no lifetime"),
        pytest.param({"lifetime": -1}, "live", id="a negative lifetime"),
        pytest.param({"lifetime": 1.5}, "live", id="a broken lifetime"),
        pytest.param({"lifetime": True}, "live", id="a lifetime that is true"),
        pytest.param({"issuer": ""}, "issuer", id="an empty issuer is not the configured one"),
        pytest.param({"subject": ""}, "subject", id="no subject"),
        pytest.param({"audience": ""}, "audience", id="no audience"),
        pytest.param({"audience": []}, "audience", id="no audiences"),
    ],
)
def test_what_no_rule_allows_is_not_minted(options: dict[str, Any], word: str) -> None:
    node = Node()
    with pytest.raises(UsageError, match=word):
        node.mint(**options)
    assert node.tally.seen == []


def test_the_longest_lifetime_is_minted() -> None:
    assert Node().mint(lifetime=Policy().max_lifetime)


def test_a_raised_lifetime_is_minted_only_when_every_node_has_had_time_to_hear_of_it() -> None:
    raised = replace(FIRST.keyset, epoch=2, ancestors=(FIRST.digest,), policy=Policy(max_lifetime=200_000))
    node = Node()
    node.install(hold(raised), confirmed=NOW)
    for passed, allowed in ((0, False), (899, False), (900, True)):
        node.clock.advance(NOW + passed - node.clock.now())
        if allowed:
            assert node.mint(lifetime=200_000)
        else:
            with pytest.raises(UsageError, match="1 to 86400 s"):
                node.mint(lifetime=86_401)


def test_an_issuer_must_come_from_somewhere() -> None:
    node = Node()
    with pytest.raises(UsageError, match="issuer"):
        Signer(node.disk, node.clock).mint({}, subject="someone", audience="api")


# --- the lease ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed", "error"),
    [
        pytest.param(LEASE, None, id="exactly G"),
        pytest.param(LEASE + 1, LeaseExpiredError, id="a second more"),
    ],
)
def test_minting_ends_with_the_lease(passed: int, error: type[KeydistError] | None) -> None:
    node = Node()
    node.clock.advance(passed)
    if error is None:
        assert node.kid() == FIRST.keyset.active.kid
        return
    assert type(node.refusal()) is error
    node.confirm(FIRST, NOW + passed)
    node.clock.advance(0.1)
    assert node.kid() == FIRST.keyset.active.kid, "a confirmation renews it"


@pytest.mark.parametrize(
    ("confirmed", "error"),
    [
        pytest.param(NOW + 30, None, id="the clock is behind by S"),
        pytest.param(NOW + 31, ClockBehindError, id="by a second more"),
        pytest.param(None, LeaseExpiredError, id="never confirmed"),
    ],
)
def test_without_a_confirmation_that_counts_nothing_is_minted(
    confirmed: int | None, error: type[KeydistError] | None
) -> None:
    node = Node(confirmed=confirmed)
    if error is None:
        assert node.kid()
    else:
        assert type(node.refusal()) is error


def test_a_confirmation_of_another_history_is_none() -> None:
    node = Node(confirmed=None)
    node.confirm(first("other "), NOW)
    assert type(node.refusal()) is LeaseExpiredError


# --- following ----------------------------------------------------------------------------------


def test_a_rotation_is_seen_within_100_ms() -> None:
    node = Node()
    assert node.kid() == FIRST.keyset.active.kid
    node.install(SECOND)
    node.clock.advance(0.1)
    assert node.kid() == SECOND.keyset.active.kid
    assert node.verifier.verify(node.mint(), audience="api", issuer="https://issuer").kid == SECOND.keyset.active.kid


def test_a_rotation_on_a_real_disk_is_seen_too(tmp_path: Path) -> None:
    state, clock = StateDirectory(tmp_path).install(FIRST), VirtualClock(NOW)
    state.disk().confirm(Confirmation(epoch=1, digest=FIRST.digest, at=NOW))
    signer, verifier = Signer(state.disk(), clock, issuer="i"), Verifier(state.disk(), clock)
    for held in (FIRST, SECOND):
        if held is SECOND:
            state.install(SECOND)
            clock.advance(0.1)
        jwt = signer.mint({}, subject="s", audience="a")
        assert verifier.verify(jwt, audience="a", issuer="i").kid == held.keyset.active.kid


def test_a_token_that_was_replaced_meanwhile_opens_the_next_keyset() -> None:
    tokens = [TOKEN]
    disk, clock = MemoryKeysetDisk(sealed=True), VirtualClock(NOW)
    disk.install(FIRST, based_on=disk.load((TOKEN,)), now=NOW)
    disk.confirm(Confirmation(epoch=1, digest=FIRST.digest, at=NOW))
    signer = Signer(disk, clock, lambda: tuple(tokens), issuer="i")
    assert parse_compact(signer.mint({}, subject="s", audience="a")).header.kid == FIRST.keyset.active.kid
    rotated = extend(FIRST, Change.ROTATE, token=OTHER_TOKEN)
    disk.install(rotated, based_on=disk.load((TOKEN,)), now=NOW)
    clock.advance(0.1)
    assert parse_compact(signer.mint({}, subject="s", audience="a")).header.kid == FIRST.keyset.active.kid
    tokens.append(OTHER_TOKEN)
    clock.advance(1)
    assert parse_compact(signer.mint({}, subject="s", audience="a")).header.kid == rotated.keyset.active.kid


def test_the_disk_is_loaded_only_where_it_changed() -> None:
    node = Node()
    node.mint()
    before = node.disk.loads
    for _ in range(50):
        node.clock.advance(0.1)
        node.mint()
    assert node.disk.loads == before


def test_a_private_key_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    load = crypto.load_private

    def counting(pkcs8: bytes, alg: str, *, validate: bool) -> crypto.PrivateKey:
        parsed.append(alg)
        return load(pkcs8, alg, validate=validate)

    node = Node()
    node.install(extend(FIRST, Change.RESEAL))
    monkeypatch.setattr(crypto, "load_private", counting)
    for number in range(5):
        node.mint()
        node.confirm(FIRST, NOW + number)
        node.clock.advance(1)
    assert len(parsed) == 1


def test_threads_may_share_one() -> None:
    node = Node()
    kids: list[set[str]] = []

    def work() -> None:
        kids.append({node.kid() for _ in range(50)})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    node.install(SECOND)
    node.clock.advance(1)
    for thread in threads:
        thread.join()
    assert len(kids) == 8
    assert set().union(*kids) <= {FIRST.keyset.active.kid, SECOND.keyset.active.kid}
    assert len(node.tally.seen) == 400


# --- a disk that fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "mints"),
    [
        pytest.param(DiskError("no"), True, id="an I/O error"),
        pytest.param(BusyError("no"), True, id="a lock"),
        pytest.param(ForkError("no"), True, id="a fork"),
        pytest.param(CorruptError("no"), True, id="damage"),
        pytest.param(RuntimeError("secret"), True, id="a defect"),
        pytest.param(UnsafeFileError("no"), False, id="a mode that lets others in"),
        pytest.param(WrongUserError("no"), False, id="another owner"),
    ],
)
def test_a_disk_that_fails_ends_minting_only_where_others_may_have_the_key(failure: Exception, *, mints: bool) -> None:
    node = Node()
    assert node.kid()
    node.disk.failure = failure
    node.confirm(FIRST, NOW)
    node.clock.advance(0.1)
    if mints:
        assert node.kid() == FIRST.keyset.active.kid
        node.clock.advance(LEASE + 1)
        assert type(node.refusal()) is LeaseExpiredError
    else:
        assert node.refusal() is failure
        node.disk.failure = None
        node.clock.advance(1)
        assert node.kid() == FIRST.keyset.active.kid


def test_a_failed_load_is_tried_again_once_a_second() -> None:
    node = Node()
    node.mint()
    node.disk.failure = DiskError("no")
    node.confirm(FIRST, NOW)
    before = node.disk.loads
    for _ in range(24):
        node.clock.advance(0.125)
        node.mint()
    assert node.disk.loads - before == 3


def test_a_defect_is_told_by_its_name_alone() -> None:
    node = Node()
    node.disk.failure = RuntimeError("secret")
    found = node.refusal()
    assert type(found) is InternalError
    assert found.found == "RuntimeError"
    assert "secret" not in "".join(traceback.format_exception(found))


def test_an_active_key_that_the_floor_says_is_revoked_does_not_mint() -> None:
    node = Node()
    assert node.kid()
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.disk.folder.is_damaged = True
    node.clock.advance(0.1)
    assert type(node.refusal()) is CorruptError


def test_a_node_mints_as_soon_as_it_has_a_keyset_and_not_after_it_forgot_it() -> None:
    node = Node(None)
    assert type(node.refusal()) is NotYetError
    node.install(FIRST, confirmed=NOW)
    node.clock.advance(0.1)
    assert node.kid() == FIRST.keyset.active.kid
    node.disk.reset()
    node.clock.advance(0.1)
    assert type(node.refusal()) is NotYetError


def test_a_state_directory_that_is_gone_is_an_accident() -> None:
    node = Node()
    assert node.kid()
    node.disk.folder.live = node.disk.folder.floor = None
    node.disk.folder.changes = 0
    node.clock.advance(0.1)
    assert node.kid() == FIRST.keyset.active.kid


def test_the_configured_lineage_is_demanded() -> None:
    node = Node()
    signer = Signer(node.disk, node.clock, issuer="i", demands=demands(lineage=OTHER_LINEAGE))
    with pytest.raises(ForkError):
        signer.mint({}, subject="s", audience="a")


def test_an_error_that_is_raised_often_does_not_grow() -> None:
    node = Node(None)
    lengths = set()
    for _ in range(5):
        found = node.refusal()
        lengths.add(len(traceback.extract_tb(found.__traceback__)))
    assert len(lengths) == 1


# --- secrets, opening ---------------------------------------------------------------------------


def test_nothing_shows_a_private_key() -> None:
    node = Node()
    node.mint()
    material = FIRST.keyset.active.material
    spellings = [material.hex(), repr(material), base64.b64encode(material).decode(), b64url_encode(material[-32:])]
    shown = repr(node.signer) + repr(vars(node.signer)) + repr(node.signer._following.current())
    assert not any(spelling in shown for spelling in spellings)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Held], Path]:
    def configure(held: Held) -> Path:
        for name in [name for name in os.environ if name.startswith("KEYDIST_")]:
            monkeypatch.delenv(name)
        state = StateDirectory(tmp_path).install(held)
        token = tmp_path / "token"
        token.write_text(format_token(TOKEN))
        token.chmod(0o600)
        path = tmp_path / "keydist.yaml"
        path.write_text(
            f"cluster: prod-eu1\nissuer: https://issuer\nstate_dir: {state.path}\nruntime_dir: {state.runtime}\n"
            f"token_file: {token}\nnode: n1\nnats: {{servers: ['nats://127.0.0.1:1']}}\n"
        )
        return path

    return configure


def test_the_library_is_opened_by_the_nodes_configuration(configured: Callable[[Held], Path], tmp_path: Path) -> None:
    held = hold(make_keyset())
    path = str(configured(held))
    with keydist.Signer.open(path) as signer:
        with pytest.raises(LeaseExpiredError):
            signer.mint({}, subject="someone", audience="api")
        now = signer._clock.now()
        StateDirectory(tmp_path).disk().confirm(Confirmation(epoch=1, digest=held.digest, at=now))
        signer._following.look()
        jwt = signer.mint({}, subject="someone", audience="api")
    claims = keydist.Verifier.open(path).verify(jwt, audience="api", issuer="https://issuer")
    assert isinstance(claims, keydist.Claims)
    files = list((tmp_path / "run" / "mints").glob("*.json"))
    assert [json.loads(file.read_bytes()) for file in files] == [{claims.kid: [1, claims.expires]}]
    assert {jwk["kid"] for jwk in keydist.Verifier.open(path).jwks()["keys"]} == {
        key.kid for key in held.keyset.signing_keys() if key.state in (State.ACTIVE, State.NEXT)
    }


def test_importing_keydist_costs_nothing() -> None:
    code = (
        "import sys, keydist; print(sorted(name for name in sys.modules if name.startswith(('keydist.', 'crypto'))));"
        "print(keydist.Signer.__name__, hasattr(keydist, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "Signer False"]
