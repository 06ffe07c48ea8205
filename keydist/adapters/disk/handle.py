"""One open descriptor of the state directory: what it is, whose it is, who else may use it, how it is closed.

Owner, mode and kind are checked on the descriptor, so that nothing can be swapped in between, and are refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from keydist.adapters.disk.system import System, refuse
from keydist.errors import UnsafeFileError, WrongUserError

if TYPE_CHECKING:
    from typing import Self


class Handle:
    """An open descriptor; `path` is for messages only. Close it when done."""

    def __init__(self, fd: int, path: str, system: System) -> None:
        self.fd = fd
        self.path = path
        self._system = system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        self._close(self.fd)

    def _close(self, fd: int) -> None:
        # Nothing was written through it that was not synced, and it is closed even where this fails.
        with suppress(OSError):
            self._system.close(fd)

    def _examine(self, fd: int, path: str, *, forbidden: int, regular: bool = False) -> os.stat_result:
        """Return what an opened descriptor is, refusing another kind, another owner and `forbidden` mode bits."""
        try:
            found = self._system.fstat(fd)
        except OSError as exc:
            refuse(exc, path, "examine")
        if regular and not stat.S_ISREG(found.st_mode):
            raise UnsafeFileError(f"{path} is not a regular file", fix=f"look at it, then remove {path}")
        if found.st_uid != os.geteuid():
            raise WrongUserError(
                f"{path} belongs to another user",
                expected=f"owner {os.geteuid()}",
                found=f"owner {found.st_uid}",
                fix="run keydist as the owner, or set the owner of the whole state directory right with chown -R",
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode & forbidden:
            raise UnsafeFileError(
                f"{path} can be used by others",
                expected=f"mode {mode & ~forbidden:04o}",
                found=f"mode {mode:04o}",
                fix=f"find out who could read it, then: chmod {mode & ~forbidden:04o} {path}",
            )
        return found

    def _give(self, fd: int, path: str, *, mode: int, gid: int | None) -> None:
        """Set group, then mode: whatever the umask, and never readable by a group that is not meant."""
        if gid is not None:
            try:
                self._system.fchown(fd, -1, gid)
            except PermissionError as exc:
                raise WrongUserError(
                    f"{path} cannot be given to the configured group",
                    expected=f"user {os.geteuid()} to be a member of group {gid}",
                    fix="add keydist's user to the group of group:, then start it anew",
                ) from exc
        self._system.fchmod(fd, mode)

    def sync(self) -> None:
        """Make the directory's entries durable."""
        try:
            self._system.fsync(self.fd)
        except OSError as exc:
            refuse(exc, self.path, "sync")
