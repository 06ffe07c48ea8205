"""The next keyset of a lineage: each function builds epoch + 1 from a held one. None decides whether it may be.

Keys stand active first, then next, then retired ones, newest first; signing before encryption.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from keydist.core.genesis import encryption_key, signing_key
from keydist.core.keyset import MAX_ANCESTORS, Keyset, Revocation, State
from keydist.core.plaintext import MAX_REASON, MAX_REVOKED, serialise_keyset
from keydist.core.strict import MAX_INT, serialise
from keydist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from keydist.core.accept import Held
    from keydist.core.genesis import FreshKeys
    from keydist.core.keyset import Key
    from keydist.core.policy import Policy

USES = ("sig", "enc")
_MOST_PLAINTEXT: Final = 32 * 1024
"""Of the 48 KiB of an envelope in base64: so that keys have room, the oldest revocations leave before their time."""
_ORDER = {State.ACTIVE: 0, State.NEXT: 1, State.RETIRED: 2}


def resealed(held: Held, *, now: int) -> Keyset:
    """Return the same keys as the next epoch: for a seal under another token."""
    return _successor(held, now=now)


def rotated(held: Held, *, now: int, alg: str, fresh: FreshKeys, drop: Collection[str] = ()) -> Keyset:
    """Return the keyset after a planned rotation: next signs, active retires, `fresh` is published as next.

    `alg` is that of the fresh signing key; `drop` names retired keys and revocations that leave.
    """
    kept = [_advanced(key, now=now) for key in held.keyset.keys if key.kid not in drop]
    keys = (*kept, *(_published(use, fresh, alg=alg, now=now) for use in USES))
    return _successor(held, now=now, keys=keys, revoked=_left(held, drop))


def republished_next(held: Held, *, now: int, alg: str, fresh: FreshKeys, uses: Collection[str] = ("sig",)) -> Keyset:
    """Return the keyset with another next key of each use named: how an algorithm is changed, and a gap filled."""
    kept = [key for key in held.keyset.keys if key.use not in uses or key.state is not State.NEXT]
    fresh_keys = (_published(use, fresh, alg=alg, now=now) for use in USES if use in uses)
    return _successor(held, now=now, keys=(*kept, *fresh_keys))


def without(held: Held, *, now: int, drop: Collection[str]) -> Keyset:
    """Return the keyset without the retired keys and the revocations that `drop` names."""
    keys = [key for key in held.keyset.keys if key.kid not in drop]
    return _successor(held, now=now, keys=keys, revoked=_left(held, drop))


def revoked(
    held: Held,
    *,
    now: int,
    kids: Collection[str],
    reason: str,
    alg: str,
    fresh: tuple[FreshKeys, FreshKeys],
    drop: Collection[str] = (),
) -> Keyset:
    """Return the keyset with keys revoked, in one epoch, with an active and a next key of each use as ever.

    For a revoked active key next signs at once; where that is revoked too, the second of `fresh` does. `drop` names
    retired keys and revocations that leave: they make room.
    Raises `UsageError` for a kid that is not listed and for a reason that the format has no room for.
    """
    keyset = held.keyset
    check_reason(reason)
    unknown = set(kids) - {key.kid for key in keyset.keys}
    if unknown:
        raise UsageError(
            f"this node has no key {min(unknown)[:64]!a} to revoke", fix="see the keys with: keydist key list"
        )
    keys: list[Key] = []
    for use in USES:
        left = [key for key in keyset.keys if key.use == use and key.kid not in kids and key.kid not in drop]
        keys += _completed(left, use, now=now, alg=alg, fresh=fresh)
    fresh_entries = tuple(Revocation(kid=key.kid, at=now, reason=reason) for key in keyset.keys if key.kid in kids)
    return _successor(held, now=now, keys=keys, revoked=(*_left(held, drop), *fresh_entries), keep=len(fresh_entries))


def _with_room(keyset: Keyset, *, keep: int) -> Keyset:
    """Return a keyset that can be sealed: without as many of its oldest revocations as that takes, but the last `keep`.

    Without the others it always can: an entry is shorter than the key that it stands for. What they name is listed
    nowhere any more, and so accepted nowhere.
    """
    older = len(keyset.revoked) - keep
    size = len(serialise_keyset(keyset))
    gone = 0
    while gone < older and (size > _MOST_PLAINTEXT or len(keyset.revoked) - gone > MAX_REVOKED):
        size -= len(serialise(keyset.revoked[gone]._asdict())) + 1  # and its comma
        gone += 1
    return replace(keyset, revoked=keyset.revoked[gone:])


def extended(held: Held, *, now: int, kid: str, until: int) -> Keyset:
    """Return the keyset with a key's `verify_until` (unix seconds) raised. Raises `UsageError`."""
    key = next((key for key in held.keyset.keys if key.kid == kid), None)
    if key is None:
        raise UsageError(f"this node has no key {kid[:64]!a}", fix="see the keys with: keydist key list")
    if not 0 <= until < MAX_INT:
        raise UsageError("verify_until is out of range", expected="0 up to 2^53", fix="name a unix time in seconds")
    if key.verify_until is not None and until < key.verify_until:
        raise UsageError(
            "verify_until is never lowered",
            expected=f"unix time {key.verify_until} or later",
            found=str(until),
            fix="name a later time, or revoke the key: keydist key revoke",
        )
    keys = [replace(other, verify_until=until) if other.kid == kid else other for other in held.keyset.keys]
    return _successor(held, now=now, keys=keys)


def with_policy(held: Held, *, now: int, policy: Policy) -> Keyset:
    """Return the keyset with another policy; see `policy.check_policy_change`."""
    return _successor(held, now=now, policy=policy)


def _successor(
    held: Held,
    *,
    now: int,
    keys: Iterable[Key] | None = None,
    revoked: tuple[Revocation, ...] | None = None,
    policy: Policy | None = None,
    keep: int = 0,
) -> Keyset:
    keyset = held.keyset
    found = keyset.keys if keys is None else tuple(sorted(keys, key=_place))
    fresh = Keyset(
        lineage=keyset.lineage,
        epoch=keyset.epoch + 1,
        issued=now,
        policy=policy or keyset.policy,
        ancestors=(held.digest, *keyset.ancestors)[:MAX_ANCESTORS],
        keys=found,
        revoked=keyset.revoked if revoked is None else revoked,
    )
    return _with_room(fresh, keep=keep)


def check_reason(reason: str) -> None:
    """Refuse a reason that the format has no room for. Raises `UsageError`."""
    if len(reason) > MAX_REASON or not (reason.isascii() and reason.isprintable()):
        raise UsageError(
            "the reason of a revocation is out of range",
            expected=f"at most {MAX_REASON} printable ASCII characters",
            found=f"{len(reason)} characters",
            fix="give a shorter reason in plain ASCII",
        )


def _place(key: Key) -> tuple[int, int, int]:
    return USES.index(key.use), _ORDER[key.state], -(key.retired or 0)


def _left(held: Held, drop: Collection[str]) -> tuple[Revocation, ...]:
    return tuple(entry for entry in held.keyset.revoked if entry.kid not in drop)


def _advanced(key: Key, *, now: int) -> Key:
    if key.state is State.NEXT:
        return replace(key, state=State.ACTIVE, activated=now)
    if key.state is State.ACTIVE:
        material = key.public.spki if key.use == "sig" else key.material
        return replace(key, state=State.RETIRED, retired=now, material=material)
    return key


def _published(use: str, fresh: FreshKeys, *, alg: str, now: int, state: State = State.NEXT) -> Key:
    activated = now if state is State.ACTIVE else None
    if use == "sig":
        return signing_key(fresh.pkcs8, alg=alg, state=state, now=now, activated=activated)
    return encryption_key(fresh.secret, fresh.secret_kid, state=state, now=now, activated=activated)


def _completed(left: list[Key], use: str, *, now: int, alg: str, fresh: tuple[FreshKeys, FreshKeys]) -> list[Key]:
    """Return what is left of a use with an active and a next key again."""
    states = {key.state: key for key in left}
    if State.ACTIVE not in states:
        following = states.pop(State.NEXT, None)
        left = [key for key in left if key is not following]
        left.append(
            _advanced(following, now=now)
            if following is not None
            else _published(use, fresh[1], alg=alg, now=now, state=State.ACTIVE)
        )
    if State.NEXT not in states:
        left.append(_published(use, fresh[0], alg=alg, now=now))
    return left
