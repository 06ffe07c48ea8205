"""Files that belong together, below one directory: what is there already stays, what differs is replaced on demand.

Everything is looked at before anything is written. A secret (0600) is only ever made, never replaced. Where a run
stops in between, the next one goes on.
"""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from keydist.adapters.public_file import write_new, write_public
from keydist.errors import ConfigError, DiskError, UnsafeFileError

_MOST: Final = 16 << 20
_OTHERS_WRITE: Final = 0o022
_OTHERS: Final = 0o077


class State(StrEnum):
    """How a wanted file compares with what is there."""

    NEW = "new"
    SAME = "same"
    DIFFERS = "differs"


class Wanted(NamedTuple):
    """A file by its path below the directory; a secret is readable by its owner only."""

    path: str
    data: bytes
    is_secret: bool = False


def read_file(directory: str, path: str, *, secret: bool = False) -> bytes | None:
    """Return what a file of the set holds, None where there is none. Raises `UnsafeFileError`, `DiskError`."""
    name = f"{directory}/{path}"
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            found = os.fstat(fd)
            forbidden = _OTHERS if secret else _OTHERS_WRITE
            if not stat.S_ISREG(found.st_mode) or not _is_ours(found, forbidden):
                raise _unsafe(name, "a regular file of this user" + (", mode 0600" if secret else ""), found)
            return stream.read(_MOST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DiskError(
            f"cannot read {name}: {os.strerror(exc.errno or 0)}", fix="look at it, or name another directory"
        ) from exc


def compare(directory: str, wanted: list[Wanted]) -> list[State]:
    """Return how each wanted file compares with what is there, without a change. Raises as `read_file`."""
    for place in _directories(directory, wanted):
        _check_directory(place)
    states = []
    for file in wanted:
        found = read_file(directory, file.path, secret=file.is_secret)
        states.append(State.NEW if found is None else State.SAME if found == file.data else State.DIFFERS)
    return states


def write_files(directory: str, wanted: list[Wanted], *, overwrite: bool) -> list[State]:
    """Bring the files there, in this order, and return how each compared before.

    Raises `ConfigError` before anything is written, where a file differs and may not be replaced: a secret never.
    """
    states = compare(directory, wanted)
    differing = [file for file, state in zip(wanted, states, strict=True) if state is State.DIFFERS]
    secrets = [file.path for file in differing if file.is_secret]
    if secrets or (differing and not overwrite):
        raise ConfigError(
            f"{directory} holds other files than these",
            expected="none, or the same",
            found=f"others at {', '.join(secrets or [file.path for file in differing])}"[:400],
            fix="move them away: a secret is never overwritten" if secrets else "look at them, then: --force",
        )
    for place in _directories(directory, wanted):
        _make_directory(place)
    for file, state in zip(wanted, states, strict=True):
        path = f"{directory}/{file.path}"
        if state is State.NEW and file.is_secret:
            write_new(path, file.data)
        elif state is not State.SAME:
            write_public(path, file.data)
    return states


def _directories(directory: str, wanted: list[Wanted]) -> list[str]:
    """Return the directory and all below it that hold the files, parents first."""
    below = {str(parent) for file in wanted for parent in Path(file.path).parents if str(parent) != "."}
    return [directory, *(f"{directory}/{name}" for name in sorted(below))]


def _check_directory(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise DiskError(f"cannot look at {path}: {os.strerror(exc.errno or 0)}", fix="name another directory") from exc
    if not stat.S_ISDIR(found.st_mode) or not _is_ours(found, _OTHERS_WRITE):
        raise _unsafe(path, "a directory of this user that nobody else may write to, not a link to one", found)


def _make_directory(path: str) -> None:
    try:
        Path(path).mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise DiskError(
            f"cannot create {path}: {os.strerror(exc.errno or 0)}", fix="name a directory in one that is there"
        ) from exc
    _check_directory(path)


def _is_ours(found: os.stat_result, forbidden: int) -> bool:
    return found.st_uid in (0, os.geteuid()) and not stat.S_IMODE(found.st_mode) & forbidden


def _unsafe(path: str, expected: str, found: os.stat_result) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} is not safe to use",
        expected=expected,
        found=f"{stat.filemode(found.st_mode)}, owner {found.st_uid}",
        fix="if nobody else could read or change it, correct owner and mode; else remove it",
    )
