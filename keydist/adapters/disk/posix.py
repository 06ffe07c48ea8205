"""One directory held open by descriptor: checked reads, durable writes, no link is ever followed.

Owners and modes are checked on opened descriptors and refused, never repaired. Every system call goes through
`System`, so that tests can stop the process before any one of them or let it fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from keydist.errors import CorruptError, DiskError, DiskFullError, ReadOnlyDiskError, UnsafeFileError, WrongUserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SHARED_READ: Final = 0o040
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


class System:
    """The system calls that touch the state directory, one attribute each."""

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


def refuse(exc: OSError, path: str, doing: str) -> NoReturn:
    """Raise the error of the family that fits an `OSError`."""
    reason = os.strerror(exc.errno) if exc.errno else type(exc).__name__
    if exc.errno in (errno.ELOOP, errno.EMLINK):
        raise UnsafeFileError(
            f"{path} is a symbolic link",
            expected="a file or directory of keydist's own",
            fix=f"look at it, then remove {path}",
        ) from exc
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


class Directory:
    """A directory, open by descriptor; `path` is for messages only. Close it when done."""

    def __init__(self, fd: int, path: str, system: System) -> None:
        self.fd = fd
        self.path = path
        self._system = system

    @classmethod
    def open_root(cls, path: str, *, mode: int, system: System) -> Directory | None:
        """Open a top directory; None where it is absent. Its last component must not be a link."""
        return cls._open(path, None, path, mode, system)

    @classmethod
    def make_root(cls, path: str, *, mode: int, gid: int | None, system: System) -> Directory:
        """Open a top directory, made with `mode` and group where it is absent. Its parents are the operator's."""
        found = cls._open(path, None, path, mode, system)
        if found is not None:
            return found
        with suppress(FileExistsError):
            try:
                system.mkdir(path, mode)
            except FileNotFoundError as exc:
                raise DiskError(
                    f"cannot create {path}: its parent is missing", fix=f"create the parent of {path}"
                ) from exc
            except FileExistsError:
                raise
            except OSError as exc:
                refuse(exc, path, "create")
        made = cls._open(path, None, path, mode, system)
        if made is None:
            raise DiskError(f"{path} went away while it was made", fix="look for another process at work there")
        made.adopt(mode=mode, gid=gid)
        return made

    @classmethod
    def _open(cls, name: str, parent: int | None, path: str, mode: int, system: System) -> Directory | None:
        try:
            fd = system.open(name, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=parent)
        except FileNotFoundError:
            return None
        except NotADirectoryError as exc:
            raise UnsafeFileError(
                f"{path} is not a directory",
                expected="a directory, not a link to one",
                fix=f"look at it, then remove {path}",
            ) from exc
        except OSError as exc:
            refuse(exc, path, "open")
        found = cls(fd, path, system)
        try:
            found._check(system.fstat(fd), path, forbidden=_OTHERS & ~mode)
        except BaseException:
            found.close()
            raise
        return found

    def sub(self, name: str, *, mode: int) -> Directory | None:
        """Open a subdirectory; None where there is none."""
        return self._open(name, self.fd, f"{self.path}/{name}", mode, self._system)

    def make(self, name: str, *, mode: int, gid: int | None) -> Directory:
        """Open a subdirectory, made durable with `mode` and group where it is absent."""
        found = self.sub(name, mode=mode)
        if found is not None:
            return found
        try:
            self._system.mkdir(name, mode, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "create")
        self.sync()
        made = self.sub(name, mode=mode)
        if made is None:
            raise DiskError(
                f"{self.path}/{name} went away while it was made", fix="look for another process at work there"
            )
        made.adopt(mode=mode, gid=gid)
        return made

    def adopt(self, *, mode: int, gid: int | None) -> None:
        """Give a directory that was just made its mode (the umask may have narrowed it) and group."""
        try:
            self._system.fchmod(self.fd, mode)
            if gid is not None:
                self._system.fchown(self.fd, -1, gid)
        except OSError as exc:
            refuse(exc, self.path, "set the mode of")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        self._system.close(self.fd)

    def _check(self, found: os.stat_result, path: str, *, forbidden: int) -> None:
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

    def read(self, name: str, *, most: int, private: bool = False, group: bool = False) -> bytes | None:
        """Return a regular file's bytes, or None where there is none.

        `private`: no mode bits for others, but for the group's read where `group`. Raises `UnsafeFileError`,
        `WrongUserError`, `DiskError` (also for more than `most` bytes).
        """
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_RDONLY | _OPEN, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as exc:
            refuse(exc, path, "open")
        try:
            found = self._system.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise UnsafeFileError(f"{path} is not a regular file", fix=f"look at it, then remove {path}")
            forbidden = _OTHERS if private else _OTHERS_WRITE
            self._check(found, path, forbidden=forbidden & ~(_SHARED_READ if group else 0))
            return self._read_all(fd, path, most)
        finally:
            self._system.close(fd)

    def _read_all(self, fd: int, path: str, most: int) -> bytes:
        parts, size = [], 0
        try:
            while part := self._system.read(fd, most + 1 - size):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise CorruptError(
                        f"{path} is too large",
                        expected=f"at most {most} bytes",
                        fix="keydist did not write it: remove it",
                    )
        except OSError as exc:
            refuse(exc, path, "read")
        return b"".join(parts)

    def create(self, name: str, data: bytes, *, mode: int, gid: int | None = None) -> None:
        """Create a file that must not exist, write it whole and sync it. The directory is not yet synced."""
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, mode, dir_fd=self.fd)
            try:
                self._system.fchmod(fd, mode)
                if gid is not None:
                    self._system.fchown(fd, -1, gid)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._system.write(fd, rest) :]
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
        except OSError as exc:
            refuse(exc, path, "write")

    def replace(self, name: str, data: bytes, *, mode: int, gid: int | None = None) -> None:
        """Replace a file, or make it: written beside it, synced, renamed over it, directory synced."""
        fresh = f".{name}.new"
        self.remove(fresh)
        self.create(fresh, data, mode=mode, gid=gid)
        self.move(fresh, name)

    def point(self, name: str, target: str) -> None:
        """Make `name` a symbolic link to `target` by rename, and sync the directory."""
        fresh = f".{name}.new"
        self.remove(fresh)
        try:
            self._system.symlink(target, fresh, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, f"{self.path}/{fresh}", "create")
        self.move(fresh, name)

    def pointed(self, name: str) -> str | None:
        """Return what a symbolic link says, or None where there is none."""
        try:
            return self._system.readlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise UnsafeFileError(
                    f"{self.path}/{name} is not a symbolic link", fix=f"look at it, then remove {self.path}/{name}"
                ) from exc
            refuse(exc, f"{self.path}/{name}", "read")

    def move(self, name: str, to: str, *, into: Directory | None = None) -> None:
        """Rename, and sync the directories."""
        target = into or self
        try:
            self._system.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=target.fd)
        except OSError as exc:
            refuse(exc, f"{target.path}/{to}", "replace")
        target.sync()
        if target is not self:
            self.sync()

    def sync(self) -> None:
        """Make the directory's entries durable."""
        try:
            self._system.fsync(self.fd)
        except OSError as exc:
            refuse(exc, self.path, "sync")

    def names(self) -> list[str]:
        """Return the names in the directory, sorted."""
        try:
            return sorted(self._system.listdir(self.fd))
        except OSError as exc:
            refuse(exc, self.path, "list")

    def oldest_first(self) -> list[str]:
        """Return the names in the directory by time of last change."""
        try:
            ages = [
                (self._system.stat(name, dir_fd=self.fd, follow_symlinks=False).st_ctime_ns, name)
                for name in self.names()
            ]
        except OSError as exc:
            refuse(exc, self.path, "list")
        return [name for _, name in sorted(ages)]

    def remove(self, name: str) -> None:
        """Remove a file, a link, or a directory with the files in it; absent is fine."""
        try:
            self._system.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._remove_directory(name)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "remove")

    def _remove_directory(self, name: str) -> None:
        inner = self._open(name, self.fd, f"{self.path}/{name}", 0o777, self._system)
        if inner is not None:
            with inner:
                for entry in inner.names():
                    inner.remove(entry)
        try:
            self._system.rmdir(name, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "remove")

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold an exclusive lock on a file of this directory; yield whether it was given at once."""
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_RDWR | os.O_CREAT | _OPEN, 0o600, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, path, "open")
        try:
            yield self._lock(fd, path)
        finally:
            self._system.close(fd)

    def _lock(self, fd: int, path: str) -> bool:
        try:
            self._system.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            refuse(exc, path, "lock")
        return True
