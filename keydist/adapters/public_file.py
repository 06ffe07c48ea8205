"""Files that leave keydist: exports and backups, written whole or not at all, and read with a bound."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from keydist.errors import ConfigError, DiskError, KeydistError, MalformedError


def write_public(path: str, data: bytes) -> bool:
    """Replace a public file (0644) atomically; tell whether it changed. Raises `DiskError`."""
    target = Path(path)
    try:
        if target.is_file() and target.read_bytes() == data:
            return False
        fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            _write(fresh, data, mode=0o644)
            fresh.replace(target)
        finally:
            with suppress(FileNotFoundError):
                fresh.unlink()
    except OSError as exc:
        raise _failed(exc, path) from exc
    return True


def write_backup(path: str, data: bytes) -> None:
    """Write a new file (0400), never over an existing one. Raises `ConfigError`, `DiskError`."""
    try:
        _write(Path(path), data, mode=0o400)
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
        raise ConfigError(
            f"cannot read {path}: {os.strerror(exc.errno or 0)}", fix="name a file that this user can read"
        ) from exc
    if len(data) > most:
        raise MalformedError(f"{path} is too large", expected=f"at most {most} bytes", fix="name a keydist backup")
    return data


def _write(path: Path, data: bytes, *, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(fd, mode)
            stream.write(data)
            stream.flush()
            os.fsync(fd)
    except OSError:
        path.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _failed(exc: OSError, path: str) -> KeydistError:
    return DiskError(f"cannot write {path}: {os.strerror(exc.errno or 0)}", fix="name a writable place with free space")
