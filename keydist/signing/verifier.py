"""Verifying JWTs with the keyset on disk: without limit, and never calling unknown what it may only not know yet."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from keydist.core import crypto
from keydist.core.jwk import jwk_set
from keydist.core.jws import Claims, Parsed, check_claims, check_signature, parse_compact
from keydist.core.lease import Lease
from keydist.errors import InvalidJwtError, KeydistError, UnavailableError, UsageError
from keydist.signing.following import Following, Snapshot, Tokens
from keydist.signing.opening import asks_agent, opened, tokens_of

if TYPE_CHECKING:
    from typing import Self

    from keydist.core.accept import Demands, Held
    from keydist.core.crypto import PublicKey
    from keydist.core.keyset import Keyset
    from keydist.ports import Clock, KeysetDisk
    from keydist.signing.remote import RemoteVerifier

_ASK_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 5.0


class _Wanted(NamedTuple):
    audience: str
    issuer: str
    leeway: int | None
    typ: str


class _Public(NamedTuple):
    alg: str
    loaded: PublicKey


class _Trusted(NamedTuple):
    keyset: Keyset
    keys: Mapping[str, _Public]
    lease: Lease | None


class Verifier:
    """Verifies JWTs and follows the keyset on disk by itself. Threads may share one.

    `refresh` is called where a kid is unknown, at most once a second, before the disk is looked at again: it may ask
    the agent or the store for a newer keyset. A `KeydistError` or `OSError` of its counts as no news.
    """

    def __init__(
        self,
        disk: KeysetDisk,
        clock: Clock,
        tokens: Tokens = (),
        *,
        demands: Demands | None = None,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self._clock = clock
        self._following = Following(disk, clock, tokens, demands, _trusted)
        self._refresh = refresh
        self._ask_at = -math.inf
        self._asking, self._pid = Lock(), os.getpid()

    @classmethod
    def open(cls, config: str | None = None, *, refresh: Callable[[], None] | None = None) -> Self:
        """Return the verifier of this node, as configured (a path, `$KEYDIST_CONFIG` or the default one).

        The keyset is first read by `verify`; unless `refresh` is given, it asks this node's agent, where one runs.
        Raises `ConfigError`.
        """
        node = opened(config)
        refresh = refresh or asks_agent(node)
        return cls(node.disk, node.clock, tokens_of(node), demands=node.demands, refresh=refresh)

    @classmethod
    def connect(cls, path: str) -> RemoteVerifier:
        """Return what verifies at the agent behind a socket."""
        from keydist.signing.remote import Agent, RemoteVerifier  # noqa: PLC0415 - an HTTP client, not needed from disk

        return RemoteVerifier(Agent(path))

    def verify(self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = "JWT") -> Claims:
        """Return what a JWT says, once its signature, its times, its issuer, its audience and its type are right.

        `leeway` is in seconds, the policy's unless given. Raises `InvalidJwtError` (with a `reason`),
        `UnavailableError` where this node cannot tell, `UsageError` for an `audience`, an `issuer` or a `leeway` that
        says nothing. Waits where the kid is unknown and `refresh` asks for news.
        """
        wanted = _wanted(audience=audience, issuer=issuer, leeway=leeway, typ=typ)
        parsed, snapshot = parse_compact(jwt), self._current()
        if self._may_ask(parsed.header.kid, snapshot):
            self._ask()
            snapshot = self._current()
        return self._judge(parsed, snapshot, wanted)

    async def verify_async(
        self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = "JWT"
    ) -> Claims:
        """As `verify`, in an event loop: only the question for news goes to a thread, and it has five seconds."""
        wanted = _wanted(audience=audience, issuer=issuer, leeway=leeway, typ=typ)
        parsed, snapshot = parse_compact(jwt), self._current()
        if self._may_ask(parsed.header.kid, snapshot):
            with suppress(TimeoutError):  # no news; the thread goes on, and what it brings counts for later JWTs
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await asyncio.to_thread(self._ask)
            snapshot = self._current()
        return self._judge(parsed, snapshot, wanted)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWK Set (RFC 7517): every key that verifies, those among them that are yet to sign.

        It is that of the disk at this moment: who judges this node's freshness by the disk must not get an older one.
        Raises `UnavailableError`.
        """
        self._following.look()
        snapshot = self._current()
        listed = jwk_set(snapshot.view.keyset)["keys"]
        return {"keys": [jwk for jwk in listed if jwk["kid"] not in snapshot.revoked]}

    def _current(self) -> Snapshot[_Trusted]:
        try:
            return self._following.current()
        except KeydistError as exc:  # whatever it is, it says nothing about the JWT
            raise UnavailableError(
                "this node has no keyset to verify with", expected=exc.expected, found=exc.message, fix=exc.fix
            ) from exc

    def _may_ask(self, kid: str, snapshot: Snapshot[_Trusted]) -> bool:
        """Tell whether a kid is unknown and nobody asked for news within the last second: then the caller shall."""
        if kid in snapshot.view.keys or kid in snapshot.revoked:
            return False
        if os.getpid() != self._pid:  # a thread of the parent may have held it at the fork
            self._asking, self._pid = Lock(), os.getpid()
        with self._asking:
            now = self._clock.monotonic()
            is_due = now >= self._ask_at
            if is_due:
                self._ask_at = now + _ASK_SECONDS
            return is_due

    def _ask(self) -> None:
        """Ask for a newer keyset, and look at the disk whatever the answer."""
        if self._refresh is not None:
            with suppress(KeydistError, OSError):
                self._refresh()
        self._following.look()

    def _judge(self, parsed: Parsed, snapshot: Snapshot[_Trusted], wanted: _Wanted) -> Claims:
        kid = parsed.header.kid
        if kid in snapshot.revoked:
            raise InvalidJwtError("the key of the JWT was revoked", reason="kid-revoked", expected="a key in use")
        key = snapshot.view.keys.get(kid)
        if key is None:
            self._refuse_unknown(snapshot.view.lease)
        check_signature(parsed, key.loaded, alg=key.alg, typ=wanted.typ)
        leeway = snapshot.view.keyset.policy.leeway if wanted.leeway is None else wanted.leeway
        return check_claims(
            parsed, issuer=wanted.issuer, audience=wanted.audience, now=self._clock.now(), leeway=leeway
        )

    def _refuse_unknown(self, lease: Lease | None) -> NoReturn:
        now = self._clock.now()
        if lease is not None and lease.is_fresh(now):
            raise InvalidJwtError("the key of the JWT is unknown", reason="kid-unknown", expected="a key of the keyset")
        raise UnavailableError(
            "the key of the JWT is unknown here, but this node may only be behind",
            expected="an epoch that was confirmed just now",
            found="never confirmed" if lease is None else f"confirmed {now - lease.confirmed} s ago",
            fix="try again; if it stays so, see why this node does not follow: keydist status",
        )


def _wanted(*, audience: str, issuer: str, leeway: int | None, typ: str) -> _Wanted:
    texts: tuple[object, ...] = (audience, issuer, typ)
    for text in texts:
        if not text or not isinstance(text, str):
            raise UsageError("audience, issuer and typ say what is expected of a JWT", expected="text, and not empty")
    if leeway is not None and (type(leeway) is not int or leeway < 0):
        raise UsageError("a leeway is not a time", expected="seconds, 0 or more")
    return _Wanted(audience, issuer, leeway, typ)


def _trusted(held: Held, lease: Lease | None, before: _Trusted | None) -> _Trusted:
    known: Mapping[str, _Public] = before.keys if before is not None else {}
    keys = {}
    for key in held.keyset.signing_keys():
        loaded = known[key.kid].loaded if key.kid in known else crypto.load_public(key.public.spki)
        keys[key.kid] = _Public(alg=key.alg, loaded=loaded)
    return _Trusted(keyset=held.keyset, keys=keys, lease=lease)
