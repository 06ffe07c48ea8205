"""Verifier: the states of keys, rotation and revocation seen by itself, news asked for, 'cannot tell'.

Hostile JWTs, and the reason each is refused for, stand in `tests/vectors/jwts.json`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest

from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.keyset import Key, Revocation, State
from keydist.core.local import Confirmation, Local
from keydist.core.policy import Policy
from keydist.core.strict import b64url_encode
from keydist.errors import CorruptError, DiskError, InvalidJwtError, KeydistError, UnavailableError, UsageError
from keydist.signing import Claims, Verifier, verifier
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import DAY, NOW, Change, enc_key, extend, first, hold, make_keyset, moved, private_key, sig_key

ISSUER, AUDIENCE = "https://issuer", "api"
ACTIVE = sig_key("A")
NEXT = sig_key("B", State.NEXT, alg="ES256")
RETIRED = sig_key("rsa-a", State.RETIRED, alg="RS256")
REVOKED = sig_key("R")
ENC = enc_key("A")
HELD: Final = hold(
    make_keyset(
        keys=(ACTIVE, NEXT, RETIRED, ENC, enc_key("B", State.NEXT)),
        revoked=(Revocation(kid=REVOKED.kid, at=NOW, reason="stolen"),),
    )
)
CLAIMS: Final[dict[str, Any]] = {"iss": ISSUER, "sub": "someone", "aud": AUDIENCE, "exp": NOW + 900, "iat": NOW}
FRESH = Policy().freshness


class Node:
    """One node's disk, and a verifier in a process beside it."""

    def __init__(self, held: Held | None = HELD, *, confirmed: int | None = NOW) -> None:
        self.disk = MemoryKeysetDisk()
        self.clock = VirtualClock(NOW)
        if held is not None:
            self.install(held, confirmed=confirmed)
        self.refresh: Callable[[], None] = lambda: None
        self.verifier = Verifier(self.disk, self.clock, refresh=lambda: self.refresh())  # noqa: PLW0108 - a test may replace it later

    def install(self, held: Held, *, confirmed: int | None = None) -> None:
        self.disk.install(held, based_on=self.disk.load(()), now=NOW)
        if confirmed is not None:
            self.disk.confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=confirmed))

    def verify(self, jwt: str, **options: Any) -> Claims:  # noqa: ANN401
        return self.verifier.verify(jwt, **({"audience": AUDIENCE, "issuer": ISSUER} | options))

    async def verify_async(self, jwt: str, **options: Any) -> Claims:  # noqa: ANN401
        return await self.verifier.verify_async(jwt, **({"audience": AUDIENCE, "issuer": ISSUER} | options))

    def takes(self, jwt: str, **options: Any) -> bool:  # noqa: ANN401
        return self.verify(jwt, **options).subject == "someone"

    def refusal(self, jwt: str, **options: Any) -> str:  # noqa: ANN401
        with pytest.raises(InvalidJwtError) as caught:
            self.verify(jwt, **options)
        shown = (
            "".join(traceback.format_exception(caught.value)) + repr(caught.value) + json.dumps(caught.value.as_json())
        )
        assert not any(segment in shown for segment in jwt.split(".") if len(segment) > 20)
        return caught.value.reason


def private_of(key: Key) -> crypto.PrivateKey:
    names = {ACTIVE.kid: "A", NEXT.kid: "B", RETIRED.kid: "rsa-a", REVOKED.kid: "R"}
    return private_key(names[key.kid], key.alg)


def sealed(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: Key = ACTIVE, *, alg: str = "") -> str:
    """Sign anything at all; `alg` is how it is signed, the key's own unless given."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(b64url_encode(part) for part in parts)
    return f"{signed}.{b64url_encode(crypto.sign(private_of(key), alg or key.alg, signed.encode()))}"


def header(key: Key = ACTIVE, **changed: object) -> dict[str, Any]:
    return {"alg": key.alg, "kid": key.kid, "typ": "JWT"} | changed


def jwt(key: Key = ACTIVE, **changed: object) -> str:
    return sealed(header(key), CLAIMS | changed, key)


GOOD = jwt()


@pytest.mark.parametrize("key", [ACTIVE, NEXT, RETIRED], ids=["active", "next", "retired"])
def test_keys_that_are_yet_to_sign_sign_or_signed_verify(key: Key) -> None:
    claims = Node().verify(jwt(key, extra={"a": [1]}, aud=["x", AUDIENCE]))
    assert (claims.kid, claims.subject, claims.audience) == (key.kid, "someone", ("x", AUDIENCE))
    assert claims.all["extra"] == {"a": [1]}
    assert "extra" not in repr(claims)


def test_a_type_is_taken_where_it_is_asked_for() -> None:
    assert Node().takes(sealed(header(typ="at+jwt"), CLAIMS), typ="at+jwt")
    assert Node().refusal(GOOD, typ="at+jwt") == "typ"


def test_the_leeway_is_the_policys_unless_given() -> None:
    late = jwt(exp=NOW - 30)
    assert Node().takes(late)
    assert Node().refusal(late, leeway=30) == "expired"
    assert Node().takes(jwt(exp=NOW - 90), leeway=100)


@pytest.mark.parametrize(
    "options",
    [
        {"audience": ""},
        {"audience": None},
        {"audience": [AUDIENCE]},
        {"issuer": ""},
        {"issuer": None},
        {"typ": ""},
        {"leeway": -1},
        {"leeway": 1.5},
        {"leeway": True},
        {"leeway": "60"},
    ],
    ids=str,
)
def test_what_is_expected_must_be_said(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Node().verify(GOOD, **options)


# --- following ----------------------------------------------------------------------------------

FIRST = first()
SECOND = extend(FIRST, Change.ROTATE)
NEW = next(key for key in SECOND.keyset.signing_keys() if key.state is State.NEXT)
OLD = FIRST.keyset.active


def by(held: Held, key: Key, issued: int = NOW) -> str:
    signing = next(one for one in held.keyset.signing_keys() if one.kid == key.kid)
    private = crypto.load_private(signing.material, signing.alg, validate=False)
    claims = CLAIMS | {"iat": issued, "exp": issued + 900}
    signed = ".".join(b64url_encode(json.dumps(part).encode()) for part in (header(signing), claims))
    return f"{signed}.{b64url_encode(crypto.sign(private, signing.alg, signed.encode()))}"


def test_a_rotation_is_seen_within_100_ms() -> None:
    node = Node(FIRST, confirmed=None)
    assert node.takes(by(FIRST, OLD))
    node.install(SECOND)
    node.clock.advance(0.1)
    assert {jwk["kid"] for jwk in node.verifier.jwks()["keys"]} == {key.kid for key in SECOND.keyset.signing_keys()}
    assert node.takes(by(SECOND, NEW))
    assert node.takes(by(FIRST, OLD))


def test_the_jwk_set_is_that_of_the_disk_at_this_very_moment() -> None:
    node = Node(FIRST)
    assert node.verifier.jwks()["keys"]
    node.install(SECOND)  # and confirmed in the same breath: whoever looks there takes this node for fresh
    assert {jwk["kid"] for jwk in node.verifier.jwks()["keys"]} == {key.kid for key in SECOND.keyset.signing_keys()}


def test_a_revoked_key_is_refused_within_100_ms_though_it_was_used_just_now() -> None:
    node = Node(FIRST, confirmed=None)
    good = by(FIRST, OLD)
    assert node.takes(good)
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.clock.advance(0.1)
    assert node.refusal(good) == "kid-revoked"
    assert OLD.kid not in {jwk["kid"] for jwk in node.verifier.jwks()["keys"]}


def test_a_key_stays_revoked_that_only_the_floor_remembers() -> None:
    revoking = extend(FIRST, Change.REVOKE_ACTIVE)
    node = Node(FIRST)
    node.install(revoking)
    node.install(extend(revoking, Change.FORGET))
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"


def test_threads_may_share_one_while_keys_rotate_and_are_revoked() -> None:
    node, old, wrong = Node(FIRST), by(FIRST, OLD), []
    revoking = extend(SECOND, Change.REVOKE_RETIRED)

    def work() -> None:
        taken = True
        for _ in range(200):
            try:
                node.verify(old)
            except InvalidJwtError as exc:
                taken = False
                wrong.extend([exc.reason] if exc.reason != "kid-revoked" else [])
            else:
                wrong.extend([] if taken else ["taken again after it was revoked"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for held in (SECOND, revoking):
        node.install(held)
        node.clock.advance(0.1)
    for thread in threads:
        thread.join()
    assert not wrong
    assert node.refusal(old) == "kid-revoked"


def test_keys_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    load = crypto.load_public

    def counting(spki: bytes) -> crypto.PublicKey:
        parsed.append(spki)
        return load(spki)

    node = Node(FIRST, confirmed=None)
    monkeypatch.setattr(crypto, "load_public", counting)
    for _ in range(3):
        node.verify(by(FIRST, OLD))
    node.install(SECOND)
    node.clock.advance(0.1)
    node.verify(by(SECOND, NEW))
    assert len(parsed) == len(set(parsed)) == 3


# --- unknown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confirmed", "error"),
    [
        pytest.param(NOW, InvalidJwtError, id="just now"),
        pytest.param(NOW - FRESH, InvalidJwtError, id="exactly V ago"),
        pytest.param(NOW - FRESH - 1, UnavailableError, id="a second longer ago"),
        pytest.param(NOW + 31, UnavailableError, id="ahead of the clock by more than S"),
        pytest.param(None, UnavailableError, id="never"),
    ],
)
def test_an_unknown_kid_is_invalid_only_where_the_node_is_up_to_date(
    confirmed: int | None, error: type[KeydistError]
) -> None:
    with pytest.raises(error) as caught:
        Node(FIRST, confirmed=confirmed).verify(by(SECOND, NEW))
    assert caught.value.exit_code == (65 if error is InvalidJwtError else 75)


def test_an_unknown_kid_lets_the_disk_be_looked_at_once_more() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.install(SECOND)
    assert node.takes(by(SECOND, NEW)), "although the next look is due in 100 ms"


def test_an_unknown_kid_asks_for_news_at_most_once_a_second() -> None:
    asked: list[float] = []
    node = Node(FIRST)
    node.refresh = lambda: asked.append(node.clock.monotonic())
    for _ in range(31):
        assert node.refusal(by(SECOND, NEW)) == "kid-unknown"
        node.verify(by(FIRST, OLD))
        node.clock.advance(0.125)
    assert asked == [0.0, 1.0, 2.0, 3.0]


def test_what_the_question_brings_counts_at_once() -> None:
    node = Node(FIRST)
    node.refresh = lambda: node.install(SECOND)
    assert node.takes(by(FIRST, OLD))
    assert node.takes(by(SECOND, NEW))


def test_a_question_that_revokes_the_kid_is_heard() -> None:
    revoked = hold(
        make_keyset(
            epoch=2,
            ancestors=(FIRST.digest,),
            keys=FIRST.keyset.keys,
            revoked=(Revocation(kid=NEW.kid, at=NOW, reason="test"),),
        )
    )
    node = Node(FIRST)
    node.refresh = lambda: node.install(revoked)
    assert node.refusal(by(SECOND, NEW)) == "kid-revoked"


@pytest.mark.parametrize("failure", [DiskError("no"), ConnectionRefusedError()], ids=repr)
def test_a_question_that_fails_is_no_news(failure: Exception) -> None:
    def refresh() -> None:
        raise failure

    node = Node(FIRST)
    node.refresh = refresh
    assert node.refusal(by(SECOND, NEW)) == "kid-unknown"


# --- in an event loop ---------------------------------------------------------------------------


async def test_in_an_event_loop_the_same_is_taken_and_refused() -> None:
    node = Node(FIRST)
    assert await node.verify_async(by(FIRST, OLD)) == node.verify(by(FIRST, OLD))
    for options in ({"audience": "other"}, {"issuer": "other"}, {"typ": "at+jwt"}):
        with pytest.raises(InvalidJwtError):
            await node.verify_async(by(FIRST, OLD), **options)
    with pytest.raises(UsageError):
        await node.verify_async(by(FIRST, OLD), audience="")


async def test_only_the_question_for_news_leaves_the_event_loop_and_once_a_second() -> None:
    asked: list[threading.Thread] = []
    node = Node(FIRST)
    node.refresh = lambda: asked.append(threading.current_thread())
    await node.verify_async(by(FIRST, OLD))
    assert not asked
    for _ in range(20):
        with pytest.raises(InvalidJwtError):
            await node.verify_async(by(SECOND, NEW))
    assert len(asked) == 1
    assert asked[0] is not threading.current_thread()


async def test_the_event_loop_goes_on_while_news_are_asked_for() -> None:
    node, may_answer = Node(FIRST), threading.Event()

    def slow() -> None:
        assert may_answer.wait(30)
        node.install(SECOND)

    node.refresh = slow
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(node.verify_async(by(SECOND, NEW)))
        await asyncio.to_thread(lambda: None)  # the loop runs, and the question is on its way
        assert (await node.verify_async(by(FIRST, OLD))).kid == OLD.kid
        assert not waiting.done()
        may_answer.set()
    assert waiting.result().kid == NEW.kid


async def test_news_that_do_not_come_in_time_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_ANSWER_SECONDS", 0.01)
    node, may_end = Node(FIRST), threading.Event()

    def late() -> None:
        assert may_end.wait(30)

    node.refresh = late
    with pytest.raises(InvalidJwtError) as caught:
        await node.verify_async(by(SECOND, NEW))
    assert caught.value.reason == "kid-unknown"
    may_end.set()


# --- a disk that fails --------------------------------------------------------------------------


def test_without_a_keyset_nothing_can_be_told() -> None:
    node = Node(None)
    with pytest.raises(UnavailableError, match="keydist bootstrap"):
        node.verify(GOOD)
    with pytest.raises(UnavailableError):
        node.verifier.jwks()
    node.install(HELD)
    node.clock.advance(0.1)
    assert node.takes(GOOD)


def damage(node: Node) -> None:
    node.disk.folder.is_damaged = True
    node.disk.folder.changes += 1


def loses(node: Node) -> None:
    node.disk.folder.live = None
    node.disk.folder.changes += 1


@pytest.mark.parametrize("accident", [damage, loses])
def test_a_damaged_disk_does_not_stop_verifying(accident: Callable[[Node], None]) -> None:
    node = Node(FIRST)
    good = by(FIRST, OLD)
    assert node.takes(good)
    accident(node)
    node.clock.advance(60)
    assert node.takes(good)


def test_a_floor_that_says_revoked_counts_although_its_keyset_is_damaged() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.disk.folder.is_damaged = True
    node.clock.advance(0.1)
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"
    assert OLD.kid not in {jwk["kid"] for jwk in node.verifier.jwks()["keys"]}


def test_a_key_stays_revoked_whatever_happens_to_the_disk() -> None:
    node = Node(FIRST)
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"
    node.disk.folder.floor = None
    damage(node)
    node.clock.advance(0.1)
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"


def test_a_keyset_that_was_forgotten_on_purpose_is_not_used() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.disk.reset()
    node.clock.advance(0.1)
    with pytest.raises(UnavailableError):
        node.verify(by(FIRST, OLD))


def test_a_process_that_starts_on_a_damaged_disk_cannot_tell() -> None:
    node = Node(FIRST)
    damage(node)
    with pytest.raises(UnavailableError) as caught:
        node.verify(by(FIRST, OLD))
    assert isinstance(caught.value.__cause__, CorruptError)


def test_verifying_has_no_lease() -> None:
    node = Node(FIRST, confirmed=NOW)
    node.clock.advance(400 * DAY)
    assert node.takes(by(FIRST, OLD, NOW + 400 * DAY))


def test_moved_keys_are_the_keys_they_were() -> None:
    retired = moved(ACTIVE, State.RETIRED, now=NOW)
    other = sig_key("N")
    node = Node(HELD)
    assert node.takes(GOOD)
    node.install(hold(make_keyset(2, ancestors=(HELD.digest,), keys=(retired, other, ENC))))
    node.clock.advance(0.1)
    assert node.takes(GOOD)


# --- processes and interruptions ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_looked_at_the_disk_verifies_and_sees_what_changed() -> None:
    node = Node()
    node.verify(jwt())
    with node.verifier._following._lock, node.verifier._asking:  # as a thread holds them that a child does not have
        node.clock.advance(1)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            node.clock.advance(1)
            node.refusal(jwt(REVOKED))
            with suppress(KeydistError):
                node.verify(sealed(header() | {"kid": "x"}, CLAIMS))
            os._exit(0 if node.takes(jwt()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_an_interruption_kept_from_being_loaded_is_loaded_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(FIRST)
    ours = by(FIRST, FIRST.keyset.active)
    node.verify(ours)
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.clock.advance(1)
    load = node.disk.load

    def interrupted(_tokens: object) -> Local:
        raise KeyboardInterrupt

    monkeypatch.setattr(node.disk, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        node.verify(ours)
    monkeypatch.setattr(node.disk, "load", load)
    assert node.refusal(ours) == "kid-revoked"
