"""The system calls under the state directory, and what their failures mean.

Every call goes through `System`, so that tests can stop the process before any one of them or let it fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
from time import monotonic, sleep  # noqa: TID251 - a lock is held for milliseconds, and no event loop turns here
from typing import NoReturn

from keydist.errors import DiskError, DiskFullError, ReadOnlyDiskError, UnsafeFileError, WrongUserError


class System:
    """The system calls that touch the state directory, and the two that wait for its lock, one attribute each."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    stat = staticmethod(os.stat)
    read = staticmethod(os.read)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    fchmod = staticmethod(os.fchmod)
    fchown = staticmethod(os.fchown)
    rename = staticmethod(os.rename)
    symlink = staticmethod(os.symlink)
    readlink = staticmethod(os.readlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    unlink = staticmethod(os.unlink)

    @staticmethod
    def listdir(fd: int) -> list[str]:
        """Return the names in an open directory."""
        return os.listdir(fd)

    flock = staticmethod(fcntl.flock)
    monotonic = staticmethod(monotonic)
    sleep = staticmethod(sleep)


def refuse(exc: OSError, path: str, doing: str) -> NoReturn:
    """Raise the error of the family that fits an `OSError`."""
    reason = os.strerror(exc.errno) if exc.errno else type(exc).__name__
    if exc.errno in (errno.ELOOP, errno.EMLINK):
        raise UnsafeFileError(
            f"{path} is a symbolic link",
            expected="a file or directory of keydist's own",
            fix=f"look at it, then remove {path}",
        ) from exc
    if exc.errno in (errno.EISDIR, errno.ENXIO, errno.ENODEV):
        raise UnsafeFileError(f"{path} is not a regular file", fix=f"look at it, then remove {path}") from exc
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(
            f"cannot {doing} {path}: {reason}", fix="free some space; what was installed is unchanged"
        ) from exc
    if exc.errno == errno.EROFS:
        raise ReadOnlyDiskError(
            f"cannot {doing} {path}: {reason}", fix="mount it writable; what was installed is unchanged"
        ) from exc
    if exc.errno in (errno.EACCES, errno.EPERM):
        raise WrongUserError(
            f"cannot {doing} {path}: {reason}",
            expected="the user that owns the state directory",
            found=f"user {os.geteuid()}",
            fix="run keydist as that user, for example: sudo -u keydist keydist …",
        ) from exc
    raise DiskError(
        f"cannot {doing} {path}: {reason}", fix="what was installed is unchanged; see the system's log"
    ) from exc
