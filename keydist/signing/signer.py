"""Minting JWTs with the active key of the keyset on disk, for as long as this node's lease lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.adapters.mints import MintCounter
from keydist.core import crypto
from keydist.core.audit import mint_of
from keydist.core.jws import compose_claims, mint_compact
from keydist.core.lease import Lease, check_lease
from keydist.core.notes import Notes, longest_lifetime
from keydist.errors import KeydistError, UnsafeFileError, UsageError, WrongUserError
from keydist.signing.following import Following, Snapshot, Tokens
from keydist.signing.opening import opened, tokens_of, trail_of

if TYPE_CHECKING:
    from typing import Self

    from keydist.core.accept import Demands, Held
    from keydist.core.crypto import PrivateKey
    from keydist.core.keyset import Key
    from keydist.ports import Clock, KeysetDisk, Mints, MintTrail
    from keydist.signing.remote import RemoteSigner

_LIFETIME: Final = 900


class _Active(NamedTuple):
    key: Key
    private: PrivateKey
    lease: Lease | None
    held: Held
    notes: Notes
    max_lifetime: int


class Signer:
    """Mints JWTs and follows the keyset on disk by itself. Threads may share one. Close it when done."""

    def __init__(
        self,
        disk: KeysetDisk,
        clock: Clock,
        tokens: Tokens = (),
        *,
        issuer: str | None = None,
        mints: Mints | None = None,
        trail: MintTrail | None = None,
        demands: Demands | None = None,
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._issuer = issuer
        self._mints = mints
        self._trail = trail
        self._following = Following(disk, clock, tokens, demands, self._activate)

    @classmethod
    def open(cls, config: str | None = None) -> Self:
        """Return the signer of this node, as configured (a path, `$KEYDIST_CONFIG` or the default one).

        The keyset is first read by `mint`. Raises `ConfigError`.
        """
        node = opened(config)
        return cls(
            node.disk,
            node.clock,
            tokens_of(node),
            issuer=node.config.issuer,
            mints=MintCounter(node.config.runtime_dir, node.clock),
            trail=trail_of(node),
            demands=node.demands,
        )

    @classmethod
    def connect(cls, path: str) -> RemoteSigner:
        """Return what mints at the agent behind a socket, as its configuration allows this user."""
        from keydist.signing.remote import Agent, RemoteSigner  # noqa: PLC0415 - an HTTP client, not needed from disk

        return RemoteSigner(Agent(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep the count of what was minted."""
        if self._mints is not None:
            self._mints.close()
        if self._trail is not None:
            self._trail.close()

    def mint(
        self,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None = None,
        lifetime: int = _LIFETIME,
        typ: str = "JWT",
    ) -> str:
        """Return a JWT of `claims` and the registered ones, valid from now for `lifetime` seconds.

        `issuer` is the configured one unless given. Raises `UsageError` (claims, lifetime), `LeaseExpiredError`,
        `ClockBehindError`, `NotYetError` (no keyset), or why the keyset on disk must not be used.
        """
        return self._mint(
            claims, subject=subject, audience=audience, issuer=issuer, lifetime=lifetime, typ=typ, uid=None
        )

    def _mint(
        self,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None,
        lifetime: int,
        typ: str,
        uid: int | None,
    ) -> str:
        """Mint for the audit trail's user `uid`; None: for this process."""
        snapshot = self._following.current()
        active, now = snapshot.view, self._clock.now()
        if snapshot.trouble is not None:
            _weigh(snapshot.trouble, snapshot)
        check_lease(active.lease, now)
        if type(lifetime) is not int or not 0 < lifetime <= active.max_lifetime:
            _check_lifetime(lifetime, active, now)
        if issuer is None:
            issuer = self._issuer
        if issuer is None:
            raise UsageError("a JWT needs an issuer", fix="give one, or set issuer: in the configuration")
        expires = now + lifetime
        composed = compose_claims(
            claims, issuer=issuer, subject=subject, audience=audience, issued=now, expires=expires
        )
        jwt = mint_compact(active.key, active.private, composed, typ)
        if self._mints is not None:
            self._mints.minted(active.key.kid, expires)
        if self._trail is not None:
            self._trail.minted(mint_of(jwt, composed, active.key.kid, uid=uid))
        return jwt

    def _activate(self, held: Held, lease: Lease | None, before: _Active | None) -> _Active:
        key, notes = held.keyset.active, self._disk.notes()
        if before is not None and before.key.kid == key.kid:
            private = before.private
        else:
            private = crypto.load_private(key.material, key.alg, validate=False)
        longest = longest_lifetime(notes, held, now=self._clock.now())
        return _Active(key=key, private=private, lease=lease, held=held, notes=notes, max_lifetime=longest)


def _check_lifetime(lifetime: int, active: _Active, now: int) -> None:
    """Refuse what must not live that long; a raised L may have become due since the keyset was loaded."""
    longest = longest_lifetime(active.notes, active.held, now=now)
    if type(lifetime) is not int or not 0 < lifetime <= longest:
        raise UsageError(
            "a JWT must not live that long",
            expected=f"1 to {longest} s",
            found=f"{lifetime} s",
            fix="mint a new one before it expires, or raise max_lifetime in the policy: that counts once it is known",
        )


def _weigh(trouble: KeydistError, snapshot: Snapshot[_Active]) -> None:
    """Refuse to mint where others may have had the key, or the floor says that it was revoked.

    Any other damage leaves a verified key, which mints until its lease ends.
    """
    if isinstance(trouble, UnsafeFileError | WrongUserError) or snapshot.view.key.kid in snapshot.revoked:
        raise trouble.with_traceback(None)
