"""What a state directory says: the live keyset, the effective floor, and what is wrong with either.

Reading changes nothing. Where the floor is behind the live keyset, a crash came between the swing and the floor,
and the live keyset counts; where it is ahead, the directory was put back and the live keyset does not count.
"""

from __future__ import annotations

import re
from typing import Final

from keydist.adapters.disk.archive import Layout, read_archive
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.records import parse_confirmation, parse_floor, raised_floor
from keydist.core.accept import Floor, Held
from keydist.core.envelope import digest
from keydist.core.local import Confirmation, Local
from keydist.core.token import BootstrapToken
from keydist.errors import (
    CommitmentError,
    CorruptError,
    KeydistError,
    MalformedError,
    RebuiltFloorError,
    RollbackError,
    UnsupportedError,
    WrongTokenError,
)

LIVE: Final = "live"
ARCHIVE: Final = "archive"
FLOOR: Final = "floor.json"
CONFIRMED: Final = "confirmed.json"
SEEN: Final = "seen.json"
MOST: Final = 4 * 1024 * 1024
_TARGET: Final = re.compile(r"archive/([0-9]{6,16}(?:-[0-9]{1,3})?)", re.ASCII)
_START: Final = "start keydist with NATS reachable"


def read_record(root: Directory, name: str) -> bytes | None:
    """Return a small file, or None where there is none. What is too large reads as empty: nothing that parses."""
    try:
        return root.read(name, most=MOST, private=name == FLOOR)
    except CorruptError:
        return b""


def stamp(root: Directory) -> bytes:
    """Return what changes with every installation: the live link and the floor."""
    return digest(f"{root.pointed(LIVE)}".encode() + b"\0" + (read_record(root, FLOOR) or b""))


def load_local(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...]) -> Local:
    """Return what an open state directory holds. Raises `ForeignClusterError` and the errors of unsafe files."""
    local = _load(root, layout, tokens)
    if local.damage is not None and local.stamp != stamp(root):
        return _load(root, layout, tokens)  # another process installed while this one read
    return local


def _load(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...]) -> Local:
    seen_stamp = stamp(root)
    floor, alarms = _load_floor(root)
    try:
        held = _load_live(root, layout, tokens)
    except (CorruptError, UnsupportedError, WrongTokenError, CommitmentError) as exc:
        damaged = isinstance(exc, CorruptError)
        return Local(floor=floor, damage=exc, quarantine=damaged, alarms=alarms, stamp=seen_stamp)
    if held is None:
        damage = _signs(root, layout, floor, alarms)
        return Local(floor=floor, damage=damage, alarms=alarms, stamp=seen_stamp)
    if floor is not None and floor.lineage == held.keyset.lineage and floor.epoch > held.keyset.epoch:
        damage = RollbackError(
            f"{root.path} was put back to an earlier epoch",
            expected=f"epoch {floor.epoch}",
            found=f"epoch {held.keyset.epoch}",
            fix=f"{_START}, so that this node catches up",
        )
        return Local(floor=floor, damage=damage, alarms=alarms, stamp=seen_stamp)
    if floor is None and not alarms:
        alarms = (RebuiltFloorError("the floor is missing", fix="it is rebuilt from the live keyset"),)
    confirmation, doubts = _load_confirmation(root)
    return Local(
        held=held,
        floor=raised_floor(floor, keyset=held.keyset, digest=held.digest, token_id=held.token_id),
        alarms=alarms + doubts + _cannot_seal(held, layout, tokens),
        confirmation=confirmation,
        stamp=seen_stamp,
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


def _load_floor(root: Directory) -> tuple[Floor | None, tuple[KeydistError, ...]]:
    raw = read_record(root, FLOOR)
    if raw is None:
        return None, ()
    try:
        return parse_floor(raw), ()
    except MalformedError as exc:
        alarm = RebuiltFloorError(f"the floor cannot be read: {exc.message}", fix="it is rebuilt from the live keyset")
        return None, (alarm,)


def _load_confirmation(root: Directory) -> tuple[Confirmation | None, tuple[KeydistError, ...]]:
    raw = read_record(root, CONFIRMED)
    if raw is None:
        return None, ()
    try:
        return parse_confirmation(raw), ()
    except MalformedError as exc:
        return None, (exc,)


def live_name(root: Directory) -> str | None:
    """Return the archive directory that the live link names; None where there is no link, or it points elsewhere."""
    match = _TARGET.fullmatch(root.pointed(LIVE) or "")
    return match[1] if match else None


def _load_live(root: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...]) -> Held | None:
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
                    return read_archive(live, layout, tokens)
    raise CorruptError(f"{root.path}/{LIVE} points to nothing", expected=target, found="no such directory", fix=_START)


def _signs(
    root: Directory, layout: Layout, floor: Floor | None, alarms: tuple[KeydistError, ...]
) -> KeydistError | None:
    """Return the damage where there are signs of an earlier keyset: a floor, or an archive without a live link."""
    if floor is None and not alarms:
        archive = root.sub(ARCHIVE, mode=layout.directory_mode)
        if archive is None:
            return None
        with archive:
            if all(name.startswith(".") for name in archive.names()):
                return None
    return CorruptError(
        f"{root.path} shows that this node had a keyset, but holds none",
        expected=f"epoch {floor.epoch}" if floor else "a live keyset",
        found="no live keyset",
        fix=f"{_START}, restore a backup (keydist store restore FILE), or forget it all (keydist reset)",
    )
