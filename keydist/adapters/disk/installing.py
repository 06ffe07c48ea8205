"""The steps of an installation, on an open and locked state directory; each is durable before the next begins.

`swing` moves the live link and nothing else that counts; what follows it is repeated by the next start where a
crash came first. `is_undone` tells whether that start has anything to do.
"""

from __future__ import annotations

from typing import Final

from keydist.adapters.disk.archive import PEM, SEALED_FILES, Layout, is_laid_out, render
from keydist.adapters.disk.evidence import REVOKED
from keydist.adapters.disk.posix import Directory, is_temporary
from keydist.adapters.disk.reading import ARCHIVE, FLOOR, LIVE, OVERRIDE, SEEN, live_name, may_seal, read_record
from keydist.adapters.disk.records import format_floor, format_notes, parse_notes
from keydist.core.accept import Floor, Held
from keydist.core.floor import raised_floor
from keydist.core.jwk import public_jwk
from keydist.core.local import Local
from keydist.core.notes import Notes, noted
from keydist.core.strict import serialise
from keydist.errors import MalformedError

PUBLIC: Final = "public"
QUARANTINE: Final = "quarantine"
_QUARANTINED: Final = 8


def swing(root: Directory, layout: Layout, new: Held) -> str | None:
    """Build the archive directory aside, make it and the public keys durable, swing the link.

    Return the name of the archive directory that was live.
    """
    live = live_name(root)
    with root.make(ARCHIVE, mode=layout.directory_mode, gid=layout.gid) as archive:
        name, suffix = f"{new.keyset.epoch:06d}", 0
        while live == name:
            suffix += 1
            name = f"{new.keyset.epoch:06d}-{suffix}"
        aside = f".{name}.new"
        archive.remove(aside)
        archive.remove(name)
        with archive.make(aside, mode=layout.directory_mode, gid=layout.gid) as fresh:
            for file, data in render(new, sealed=layout.sealed).items():
                fresh.create(file, data, mode=layout.file_mode(file), gid=layout.gid if file == PEM else None)
            fresh.sync()
        _keep_public(root, layout, new)
        archive.move(aside, name)
    if live is None:
        root.sync_own_entry()
    root.point(LIVE, f"{ARCHIVE}/{name}")
    return live


def _keep_public(root: Directory, layout: Layout, new: Held) -> None:
    with root.make(PUBLIC, mode=layout.directory_mode, gid=layout.gid) as public:
        there = set(public.names())
        for key in new.keyset.signing_keys():
            if f"{key.kid}.jwk" not in there:
                public.replace(f"{key.kid}.jwk", serialise(public_jwk(key)) + b"\n", mode=0o644)


def write_floor(root: Directory, layout: Layout, new: Held, earlier: Floor | None) -> None:
    """Write the floor that `new` makes of the `earlier` one; what was revoked is marked beside its public key first.

    The marks outlive the floor: a public key that is kept for ever would else be believed once that is lost.
    """
    floor = raised_floor(earlier, new)
    if floor.revoked:
        with root.make(PUBLIC, mode=layout.directory_mode, gid=layout.gid) as public:
            for name in {f"{kid}{REVOKED}" for kid in floor.revoked} - set(public.names()):
                public.replace(name, b"", mode=0o644)
    root.replace(FLOOR, format_floor(floor), mode=0o600)


def note(root: Directory, new: Held, *, now: int) -> None:
    """Write when each kid was first held in each state."""
    notes = _notes_due(root, new, now)
    if notes is not None:
        root.replace(SEEN, format_notes(notes), mode=0o600)


def read_notes(root: Directory) -> Notes:
    """Return what was noted; nothing where that is lost."""
    try:
        return parse_notes(read_record(root, SEEN) or b"")
    except MalformedError:
        return Notes()


def _notes_due(root: Directory, held: Held, now: int) -> Notes | None:
    """Return what seen.json should say, or None where it says so already."""
    fresh = noted(read_notes(root), held, now=now)
    return None if read_record(root, SEEN) == format_notes(fresh) else fresh


# --- what the live keyset leaves behind ---------------------------------------------------------


def tidy(root: Directory, layout: Layout, *, keep: str | None, damaged: bool = False) -> None:
    """Remove what is neither live nor its predecessor `keep`; a `damaged` one goes to quarantine.

    Where keysets are sealed at rest, nothing that was written in plain before stays.
    """
    live = live_name(root)
    with root.make(ARCHIVE, mode=layout.directory_mode, gid=layout.gid) as archive:
        if keep is not None and damaged and keep in archive.names():
            _move_aside(root, archive, layout, keep)
        past = [name for name in archive.names() if name != live]
        gone = [name for name in past if name != keep or _is_plain(archive, name, layout)]
        for name in gone:
            archive.remove(name)
        if gone:
            archive.sync()
    _sweep(root, PUBLIC, layout)
    _sweep(root, QUARANTINE, layout)
    root.sweep()


def _sweep(root: Directory, name: str, layout: Layout) -> None:
    directory = root.sub(name, mode=layout.directory_mode)
    if directory is not None:
        with directory:
            directory.sweep()
            if name == QUARANTINE:
                for entry in directory.directories():
                    _strip(directory, entry, layout)


def newest_other(root: Directory, layout: Layout) -> str | None:
    """Return the newest archive directory beside the live one: its predecessor, unless a crash left another."""
    others = _others(root, layout)
    return max(others, key=lambda name: (len(name.partition("-")[0]), name)) if others else None


def _others(root: Directory, layout: Layout) -> list[str]:
    archive, live = root.sub(ARCHIVE, mode=layout.directory_mode), live_name(root)
    if archive is None:
        return []
    with archive:
        return [name for name in archive.directories() if name != live and not is_temporary(name)]


def _is_plain(parent: Directory, name: str, layout: Layout) -> bool:
    """Tell whether a directory that must hold no plaintext may hold some."""
    directory = parent.sub(name, mode=layout.directory_mode) if layout.sealed else None
    if directory is None:
        return False
    with directory:
        return not SEALED_FILES.issuperset(directory.names())


def _strip(parent: Directory, name: str, layout: Layout) -> None:
    """Remove from a directory what may be plaintext, where none may stay."""
    directory = parent.sub(name, mode=layout.directory_mode) if layout.sealed else None
    if directory is not None:
        with directory:
            gone = set(directory.names()) - SEALED_FILES
            for file in gone:
                directory.remove(file)
            if gone:
                directory.sync()


def _move_aside(root: Directory, archive: Directory, layout: Layout, name: str) -> None:
    with root.make(QUARANTINE, mode=layout.directory_mode, gid=layout.gid) as cell:
        cell.remove(name)
        archive.move(name, name, into=cell)
        trim(cell)


def trim(cell: Directory) -> None:
    """Keep the newest eight of what was refused."""
    for name in cell.oldest_first()[:-_QUARANTINED]:
        cell.remove(name)


# --- what a crash left undone -------------------------------------------------------------------


def must_relay(root: Directory, layout: Layout, local: Local) -> bool:
    """Tell whether the live keyset is laid out otherwise than configured, and can be laid out anew."""
    if layout.sealed and not may_seal(local):
        return False
    archive = root.sub(ARCHIVE, mode=layout.directory_mode)
    if archive is None:
        return False
    with archive:
        live = archive.sub(live_name(root) or "", mode=layout.directory_mode)
        if live is None:
            return False
        with live:
            return not is_laid_out(live, layout)


def floor_is_due(root: Directory, floor: Floor) -> bool:
    """Tell whether floor.json says something else than the effective floor."""
    return read_record(root, FLOOR) != format_floor(floor)


def is_undone(root: Directory, layout: Layout, local: Local, held: Held, floor: Floor, *, now: int) -> bool:
    """Tell whether anything remains to be done around a live keyset."""
    return (
        must_relay(root, layout, local)
        or floor_is_due(root, floor)
        or _notes_due(root, held, now) is not None
        or _has_litter(root, layout)
    )


def _has_litter(root: Directory, layout: Layout) -> bool:
    if any(is_temporary(name) or name == OVERRIDE for name in root.names()) or len(_others(root, layout)) > 1:
        return True
    return any(_is_littered(root, name, layout) for name in (ARCHIVE, PUBLIC, QUARANTINE))


def _is_littered(root: Directory, name: str, layout: Layout) -> bool:
    directory, live = root.sub(name, mode=layout.directory_mode), live_name(root)
    if directory is None:
        return False
    with directory:
        if any(is_temporary(entry) for entry in directory.names()):
            return True
        kept = [entry for entry in directory.directories() if name == QUARANTINE or entry != live]
        return any(_is_plain(directory, entry, layout) for entry in kept)
