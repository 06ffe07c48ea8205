"""Files as they stand, seen from outside: no link is followed below a directory, nothing is opened but directories."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.doctor.files import File
from keydist.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST: Final = 20_000
_MOST_DEPTH: Final = 6
_MOUNTS: Final = "/proc/self/mountinfo"
_KINDS: Final = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))


def file_at(path: str, *, follow: bool = False) -> File | None:
    """Return what is at a path, None where there is nothing. Raises `DiskError` where that cannot be told."""
    try:
        return _file(path, Path(path).stat(follow_symlinks=follow))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DiskError(
            f"{path} cannot be examined: {os.strerror(exc.errno or 0).lower()}",
            fix="run it as the user that runs keydist, or as root",
        ) from exc


def below(path: str) -> tuple[File, ...]:
    """Return everything below a directory, bounded in number and in depth; what cannot be listed is left out."""
    found: list[File] = []
    rest = [(path, 0)]
    while rest and len(found) < _MOST:
        directory, depth = rest.pop()
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                one = _file(entry.path, entry.stat(follow_symlinks=False))
                found.append(one)
                if one.kind == "directory" and depth < _MOST_DEPTH:
                    rest.append((one.path, depth + 1))
    return tuple(found)


def _file(path: str, found: os.stat_result) -> File:
    kind = next((name for test, name in _KINDS if test(found.st_mode)), "other")
    return File(path, kind, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


class Room(NamedTuple):
    """What is left for a user without privileges: bytes, and files (None: no limit)."""

    free: int
    files: int | None
    read_only: bool


def room_at(path: str) -> Room:
    """Return the room on the file system of a path, or of the nearest directory above it. Raises `DiskError`."""
    while True:
        try:
            found = os.statvfs(path)
        except FileNotFoundError:
            path = str(Path(path).parent)
            continue
        except OSError as exc:
            raise DiskError(f"{path} cannot be examined: {os.strerror(exc.errno or 0).lower()}") from exc
        return Room(
            free=found.f_bavail * found.f_frsize,
            files=found.f_favail if found.f_files else None,
            read_only=bool(found.f_flag & os.ST_RDONLY),
        )


def filesystem_of(path: str) -> str:
    """Return the kind of file system that a path is on, or would be; empty where that cannot be seen."""
    try:
        with Path(_MOUNTS).open(encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return ""
    real, best, kind = os.path.realpath(path), "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) > 4:  # noqa: PLR2004 - the fifth is where it is mounted: proc(5)
            point = fields[4].replace("\\040", " ")
            if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, kinds[0]
    return kind


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Let root look as another user does, whose own files keydist then takes for its own; others stay who they are."""
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
