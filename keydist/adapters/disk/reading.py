"""What a state directory says: the live keyset, the effective floor, and what is wrong with either.

Reading changes nothing. Where the floor is behind the live keyset, a crash came between the swing and the floor,
and the live keyset counts; where it is ahead, the directory was put back and the live keyset does not count.
"""

from __future__ import annotations

import re
from typing import Final

from keydist.adapters.disk.archive import Layout, read_archive
from keydist.adapters.disk.evidence import ever_revoked, lost_floor, signs
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.records import parse_confirmation, parse_floor, parse_override
from keydist.core.accept import Floor, Held
from keydist.core.envelope import digest
from keydist.core.floor import not_on_floor, raised_floor
from keydist.core.local import Confirmation, Local
from keydist.core.token import BootstrapToken
from keydist.errors import (
    CommitmentError,
    CorruptError,
    DiskError,
    KeydistError,
    MalformedError,
    RebuiltFloorError,
    UnsupportedError,
    WrongTokenError,
)

LIVE: Final = "live"
ARCHIVE: Final = "archive"
FLOOR: Final = "floor.json"
CONFIRMED: Final = "confirmed.json"
SEEN: Final = "seen.json"
OVERRIDE: Final = "override.json"
AGENT: Final = "agent.json"
HOOKS: Final = "hooks"
TRAIL: Final = "audit"
MOST: Final = 4 * 1024 * 1024
_TARGET: Final = re.compile(r"archive/([0-9]{6,16}(?:-[0-9]{1,3})?)", re.ASCII)
_START: Final = "start keydist with NATS reachable"


def read_record(root: Directory, name: str) -> bytes | None:
    """Return a small file, or None where there is none. What is too large reads as empty: nothing that parses."""
    try:
        return root.read(name, most=MOST, private=name == FLOOR)
    except CorruptError:
        return b""


def _try_record(root: Directory, name: str) -> tuple[bytes | None, tuple[KeydistError, ...]]:
    """Return a small file for a start, which none of them is worth, and the alarm where it cannot be read."""
    try:
        return read_record(root, name), ()
    except DiskError as exc:
        return None, (exc,)


def stamp(root: Directory) -> bytes:
    """Return what changes with every installation: the live link and the floor."""
    return _stamp(root, read_record(root, FLOOR))


def _stamp(root: Directory, floor: bytes | None) -> bytes:
    return digest(f"{root.pointed(LIVE)}".encode() + b"\0" + (floor or b""))


def load_local(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...], known: Held | None = None) -> Local:
    """Return what an open state directory holds; `known` is the keyset that was loaded from it before.

    Raises `ForeignClusterError` and the errors of unsafe files.
    """
    local = _load(root, layout, tokens, known)
    if local.damage is not None and local.stamp != _stamp(root, _try_record(root, FLOOR)[0]):
        return _load(root, layout, tokens, known)  # another process installed while this one read
    return local


def _load(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...], known: Held | None) -> Local:
    raw, unread = _try_record(root, FLOOR)
    seen_stamp = _stamp(root, raw)
    floor, alarms = (None, unread) if raw is None else _read_floor(raw)
    confirmation, doubts = _load_confirmation(root)  # before the keyset: it speaks for later ones, not for earlier ones
    try:
        held = _load_live(root, layout, tokens, known)
    except (CorruptError, UnsupportedError, WrongTokenError, CommitmentError) as exc:
        return _damaged(root, layout, exc, floor, alarms)._replace(stamp=seen_stamp)
    if held is None:
        if not signs(root, mode=layout.directory_mode):
            return Local(stamp=seen_stamp)
        gone = _damaged(root, layout, _gone(root, floor), floor, alarms)
        return gone._replace(stamp=seen_stamp, quarantine=False)
    if floor is None:
        revoked, unread = _ever_revoked(root, layout)
        floor = raised_floor(None, held, revoked=revoked)
        rebuilt = RebuiltFloorError("the floor is missing", fix="it is rebuilt from the live keyset")
        alarms = (alarms or (rebuilt,)) + unread
    damage = not_on_floor(floor, held)
    if damage is not None and not _was_chosen(root, held):
        return Local(floor=floor, damage=damage, alarms=alarms, stamp=seen_stamp)
    return Local(
        held=held,
        floor=raised_floor(floor, held),
        alarms=alarms + doubts + _cannot_seal(held, layout, tokens),
        confirmation=confirmation,
        stamp=seen_stamp,
    )


def _ever_revoked(root: Directory, layout: Layout) -> tuple[frozenset[str], tuple[KeydistError, ...]]:
    try:
        return ever_revoked(root, mode=layout.directory_mode), ()
    except DiskError as exc:  # a disk that cannot tell this keeps no node from its keyset
        return frozenset(), (exc,)


def _damaged(
    root: Directory, layout: Layout, damage: KeydistError, floor: Floor | None, alarms: tuple[KeydistError, ...]
) -> Local:
    """Return a node without a keyset; a floor that was lost too is put together from what else is there."""
    if floor is None:
        floor = lost_floor(root, mode=layout.directory_mode)
        if not alarms:
            fix = "what it knew of superseded tokens is lost: look at the store before trusting it"
            alarms = (RebuiltFloorError("the floor is missing", fix=fix),)
    return Local(floor=floor, damage=damage, quarantine=isinstance(damage, CorruptError), alarms=alarms)


def _was_chosen(root: Directory, held: Held) -> bool:
    """Tell whether a person chose this keyset against the floor, and a crash came before the floor followed."""
    raw, _ = _try_record(root, OVERRIDE)
    try:
        return raw is not None and parse_override(raw) == held.digest
    except MalformedError:
        return False


def _gone(root: Directory, floor: Floor | None) -> CorruptError:
    return CorruptError(
        f"{root.path} shows that this node had a keyset, but holds none",
        expected=f"epoch {floor.epoch}" if floor else "a live keyset",
        found="no live keyset",
        fix=f"{_START}, restore a backup (keydist store restore FILE), or forget it all (keydist reset)",
    )


def _cannot_seal(held: Held, layout: Layout, tokens: tuple[BootstrapToken, ...]) -> tuple[KeydistError, ...]:
    """Return the alarm for a plain keyset that should be sealed, but could then not be opened here."""
    have = tuple(token.token_id for token in tokens)
    if not layout.sealed or held.token_id in have:
        return ()
    message = "the keyset stays on disk in plain: this node does not hold the token that would open it sealed"
    fix = f"put the token with id {held.token_id} into the token file, or set at_rest: plain"
    return (WrongTokenError(message, have=have, need=held.token_id, fix=fix),)


def may_seal(local: Local) -> bool:
    """Tell whether a loaded keyset can be opened again once its plaintext is gone."""
    return not any(isinstance(alarm, WrongTokenError) for alarm in local.alarms)


def _read_floor(raw: bytes) -> tuple[Floor | None, tuple[KeydistError, ...]]:
    try:
        return parse_floor(raw), ()
    except MalformedError as exc:
        alarm = RebuiltFloorError(f"the floor cannot be read: {exc.message}", fix="it is rebuilt from the live keyset")
        return None, (alarm,)


def _load_confirmation(root: Directory) -> tuple[Confirmation | None, tuple[KeydistError, ...]]:
    raw, failures = _try_record(root, CONFIRMED)
    if raw is None:
        return None, failures
    try:
        return parse_confirmation(raw), ()
    except MalformedError as exc:
        return None, (exc,)


def live_name(root: Directory) -> str | None:
    """Return the archive directory that the live link names; None where there is no link, or it points elsewhere."""
    match = _TARGET.fullmatch(root.pointed(LIVE) or "")
    return match[1] if match else None


def _load_live(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...], known: Held | None) -> Held | None:
    target = root.pointed(LIVE)
    if target is None:
        return None
    name = live_name(root)
    if name is None:
        raise CorruptError(f"{root.path}/{LIVE} points elsewhere", expected="archive/<epoch>", fix=_START)
    archive = root.sub(ARCHIVE, mode=layout.directory_mode)
    if archive is not None:
        with archive:
            live = archive.sub(name, mode=layout.directory_mode)
            if live is not None:
                with live:
                    return read_archive(live, layout, tokens, known)
    raise CorruptError(f"{root.path}/{LIVE} points to nothing", expected=target, found="no such directory", fix=_START)
