"""What a state directory that lost its floor still tells of the keysets that it held.

Envelopes in the archive name lineage and epoch, `confirmed.json` an epoch, `seen.json` and the marks beside the public
keys what was revoked. All of it only makes a node stricter: nothing is accepted because of it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.records import parse_confirmation, parse_notes
from keydist.core.accept import Floor
from keydist.core.envelope import digest, parse_envelope
from keydist.core.keyset import State
from keydist.core.plaintext import parse_kid
from keydist.errors import KeydistError, MalformedError

if TYPE_CHECKING:
    from keydist.adapters.disk.posix import Directory

REVOKED: Final = ".revoked"
"""What the mark of a revoked key is called behind its kid, beside its public key."""
_MOST = 4 * 1024 * 1024


def signs(root: Directory, *, mode: int) -> bool:
    """Tell whether anything here shows that this node once held a keyset."""
    names = {name for name in root.names() if not name.startswith(".")}
    if {"live", "floor.json", "confirmed.json", "seen.json"} & names:
        return True
    return any(_entries(root, name, mode) for name in ("archive", "public", "quarantine"))


def lost_floor(root: Directory, *, mode: int) -> Floor | None:
    """Return the floor that the remaining files speak for; None where they say nothing of an epoch."""
    floor: Floor | None = None
    for name in _entries(root, "archive", mode):
        found = _archived(root, name, mode)
        if found is not None and (floor is None or found.epoch > floor.epoch):
            floor = found
    try:
        confirmed = parse_confirmation(root.read("confirmed.json", most=_MOST) or b"")
    except KeydistError:
        confirmed = None
    if confirmed is not None and (floor is None or confirmed.epoch > floor.epoch):
        unknown = Floor(lineage=None, epoch=0, digest=b"", token_id=None)
        floor = (floor or unknown)._replace(epoch=confirmed.epoch, digest=confirmed.digest)
    return floor._replace(revoked=ever_revoked(root, mode=mode)) if floor is not None else None


def _entries(root: Directory, name: str, mode: int) -> list[str]:
    directory = root.sub(name, mode=mode)
    if directory is None:
        return []
    with directory:
        return [entry for entry in directory.names() if not entry.startswith(".")]


def _archived(root: Directory, name: str, mode: int) -> Floor | None:
    archive = root.sub("archive", mode=mode)
    if archive is None:
        return None
    with archive:
        directory = archive.sub(name, mode=mode)
        if directory is None:
            return None
        with directory:
            try:
                raw = directory.read("keyset.jwe", most=_MOST, private=True) or b""
                header = parse_envelope(raw).header
            except KeydistError:
                return None
    return Floor(lineage=header.lineage, epoch=header.epoch, digest=digest(raw), token_id=header.token_id)


def ever_revoked(root: Directory, *, mode: int) -> frozenset[str]:
    """Return the kids that this node has seen revoked, as far as anything but its floor says so.

    Raises `DiskError` and the errors of unsafe files.
    """
    found = {name.removesuffix(REVOKED) for name in _entries(root, "public", mode) if _marks(name)}
    with suppress(MalformedError):
        notes = parse_notes(root.read("seen.json", most=_MOST) or b"")
        found |= {kid for kid, states in notes.keys.items() if State.REVOKED.value in states}
    return frozenset(found)


def _marks(name: str) -> bool:
    try:
        return name == parse_kid(name.removesuffix(REVOKED)) + REVOKED
    except MalformedError:
        return False
