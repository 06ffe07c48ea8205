"""Files that leave keydist: exports and backups, written whole or not at all, and read with a bound."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from keydist.errors import ConfigError, DiskError, KeydistError, MalformedError


def write_public(path: str, data: bytes) -> bool:
    """Replace a public file (0644) atomically; tell whether it changed. Raises `ConfigError`, `DiskError`."""
    target = Path(path)
    try:
        if _holds(target, data):
            return False
        _replace(target, data, mode=0o644)
    except OSError as exc:
        raise _failed(exc, path) from exc
    return True


def write_private(path: str, data: bytes) -> None:
    """Replace a file that only its owner may read (0600) atomically, or make it. Raises `ConfigError`, `DiskError`."""
    target = Path(path)
    try:
        _holds(target, data)
        _replace(target, data, mode=0o600)
    except OSError as exc:
        raise _failed(exc, path) from exc


def remove(path: str) -> None:
    """Remove a file durably; absent is fine. Raises `DiskError`."""
    target = Path(path)
    try:
        target.unlink(missing_ok=True)
        _sync(target.parent)
    except OSError as exc:
        raise DiskError(f"cannot remove {path}: {_reason(exc)}", fix="look at its directory, then remove it") from exc


def mark_of(path: str) -> tuple[int, ...] | None:
    """Return what differs once a file was replaced, written to or given away; None where there is none.

    Raises `DiskError`.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DiskError(f"cannot look at {path}: {_reason(exc)}", fix="look at its directory") from exc
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns


def write_new(path: str, data: bytes) -> None:
    """Make a file that only its owner may read (0600), whole or not at all. Raises `ConfigError` where one is there."""
    target = Path(path)
    try:
        fd, fresh = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
        _fill(fd, Path(fresh), data, mode=0o600)
        try:
            target.hardlink_to(fresh)  # unlike a rename, never over anything
        finally:
            _discard(Path(fresh))
        _sync(target.parent)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists, and a secret is never overwritten", fix="look at it, then move it") from exc
    except OSError as exc:
        raise _failed(exc, path) from exc


def write_backup(path: str, data: bytes) -> None:
    """Write a new file (0400), never over an existing one. Raises `ConfigError`, `DiskError`."""
    target = Path(path)
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        _fill(fd, target, data, mode=0o400)
        _sync(target.parent)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists, and a backup is never overwritten", fix="name another file") from exc
    except OSError as exc:
        raise _failed(exc, path) from exc


def read_bounded(path: str, *, most: int) -> bytes:
    """Return a file of at most `most` bytes. Raises `MalformedError`, `ConfigError`."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {_reason(exc)}", fix="name a file that this user can read") from exc
    if len(data) > most:
        raise MalformedError(f"{path} is too large", expected=f"at most {most} bytes", fix="name a keydist backup")
    return data


def _holds(target: Path, data: bytes) -> bool:
    """Tell whether a file holds `data` already. Raises `ConfigError` for what is no file: /dev/null stays one."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{target} is not a regular file, and is not replaced by one", fix="name another file")
    return found.st_size == len(data) and target.read_bytes() == data


def _replace(target: Path, data: bytes, *, mode: int) -> None:
    """Write a file beside its name, durably, then move it there."""
    fd, fresh = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
    _fill(fd, Path(fresh), data, mode=mode)
    try:
        Path(fresh).replace(target)
    except OSError:
        _discard(Path(fresh))
        raise
    _sync(target.parent)


def _fill(fd: int, path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file durably, or take it away again."""
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(fd, mode)
            stream.write(data)
            stream.flush()
            os.fsync(fd)
    except OSError:
        _discard(path)
        raise


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(exc: OSError, path: str) -> KeydistError:
    return DiskError(f"cannot write {path}: {_reason(exc)}", fix="name a writable place with free space")


def _reason(exc: OSError) -> str:
    return os.strerror(exc.errno) if exc.errno else type(exc).__name__
