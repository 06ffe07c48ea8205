"""One directory held open by descriptor: checked reads, durable writes, no link is ever followed.

Owners and modes are checked on opened descriptors and refused, never repaired. Only a directory that is to be
shared with a group, and is not yet, gets that group.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.handle import Handle
from keydist.adapters.disk.system import System, refuse
from keydist.errors import CorruptError, DiskError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SHARED_READ: Final = 0o040
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_OWN: Final = 0o700
_ANY: Final = 0o777


def is_temporary(name: str) -> bool:
    """Tell whether a name is one that `replace`, `point` or a half-built archive directory had before its rename."""
    return name.startswith(".") and name.endswith(".new")


class Directory(Handle):
    """A directory, open by descriptor: everything below it is opened through it."""

    def __init__(self, fd: int, path: str, system: System) -> None:
        super().__init__(fd, path, system)
        self._found: tuple[int, int] | None = None

    @classmethod
    def open_root(cls, path: str, *, mode: int, system: System) -> Directory | None:
        """Open a top directory; None where it is absent. Its last component must not be a link."""
        return cls._open(path, None, path, mode, system)

    @classmethod
    def make_root(cls, path: str, *, mode: int, gid: int | None, system: System) -> Directory:
        """Open a top directory, made with `mode` and group where it is absent. Its parents are the operator's."""
        found = cls._open(path, None, path, mode, system)
        if found is not None:
            return found.completed(mode=mode, gid=gid)
        with suppress(FileExistsError):
            try:
                system.mkdir(path, _OWN)
            except FileNotFoundError as exc:
                raise DiskError(
                    f"cannot create {path}: its parent is missing", fix=f"create the parent of {path}"
                ) from exc
            except FileExistsError:
                raise
            except OSError as exc:
                refuse(exc, path, "create")
        made = cls._there(cls._open(path, None, path, mode, system), path)
        return made.shared(mode=mode, gid=gid)

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
        opened = cls(fd, path, system)
        try:
            found = opened._examine(fd, path, forbidden=_OTHERS & ~mode)
        except BaseException:
            opened.close()
            raise
        opened._found = stat.S_IMODE(found.st_mode), found.st_gid
        return opened

    @staticmethod
    def _there(made: Directory | None, path: str) -> Directory:
        if made is None:
            raise DiskError(f"{path} went away while it was made", fix="look for another process at work there")
        return made

    def sub(self, name: str, *, mode: int) -> Directory | None:
        """Open a subdirectory; None where there is none."""
        return self._open(name, self.fd, f"{self.path}/{name}", mode, self._system)

    def make(self, name: str, *, mode: int, gid: int | None) -> Directory:
        """Open a subdirectory, made durable with `mode` and group where it is absent."""
        found = self.sub(name, mode=mode)
        if found is not None:
            return found.completed(mode=mode, gid=gid)
        try:
            self._system.mkdir(name, _OWN, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "create")
        self.sync()
        return self._there(self.sub(name, mode=mode), f"{self.path}/{name}").shared(mode=mode, gid=gid)

    def is_shared(self, *, mode: int, gid: int | None) -> bool:
        """Tell whether the group was let in when this directory was opened; True where there is no group."""
        return gid is None or self._found == (mode, gid)

    def completed(self, *, mode: int, gid: int | None) -> Directory:
        """Return this directory, shared where a crash came before that or `group:` was set since."""
        return self if self.is_shared(mode=mode, gid=gid) else self.shared(mode=mode, gid=gid)

    def shared(self, *, mode: int, gid: int | None) -> Directory:
        """Return this directory after giving it its mode and group."""
        try:
            self._give(self.fd, self.path, mode=mode, gid=gid)
        except OSError as exc:
            self.close()
            refuse(exc, self.path, "set the mode of")
        except BaseException:
            self.close()
            raise
        return self

    def read(self, name: str, *, most: int, private: bool = False, group: bool = False) -> bytes | None:
        """Return a regular file's bytes, or None where there is none.

        `private`: no mode bits for others, but for the group's read where `group`. Raises `UnsafeFileError`,
        `WrongUserError`, `DiskError`, `CorruptError` (more than `most` bytes).
        """
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_RDONLY | _OPEN, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as exc:
            refuse(exc, path, "open")
        try:
            forbidden = _OTHERS if private else _OTHERS_WRITE
            self._examine(fd, path, forbidden=forbidden & ~(_SHARED_READ if group else 0), regular=True)
            return self._read_all(fd, path, most)
        finally:
            self._close(fd)

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
            fd = self._system.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, path, "create")
        try:
            try:
                self._give(fd, path, mode=mode, gid=gid)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._system.write(fd, rest) :]
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
        except OSError as exc:
            with suppress(OSError):  # on a full disk half a file is in the way
                self._system.unlink(name, dir_fd=self.fd)
            refuse(exc, path, "write")

    def append(self, name: str, data: bytes) -> None:
        """Write behind what a private file holds, and sync it. A crash or a failure may leave a part of `data`."""
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_WRONLY | os.O_APPEND | _OPEN, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, path, "open")
        try:
            self._examine(fd, path, forbidden=_OTHERS, regular=True)
            rest = memoryview(data)
            while rest:
                rest = rest[self._system.write(fd, rest) :]
            self._system.fsync(fd)
        except OSError as exc:
            refuse(exc, path, "write")
        finally:
            self._close(fd)

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

    def sync_own_entry(self) -> None:
        """Make this directory itself durable, by syncing its parent, where this user may open that."""
        try:
            fd = self._system.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except PermissionError:
            return
        except OSError as exc:
            refuse(exc, f"{self.path}/..", "open")
        parent = Directory(fd, f"{self.path}/..", self._system)
        with parent:
            parent.sync()

    def names(self) -> list[str]:
        """Return the names in the directory, sorted."""
        try:
            return sorted(self._system.listdir(self.fd))
        except OSError as exc:
            refuse(exc, self.path, "list")

    def directories(self) -> list[str]:
        """Return the names of the subdirectories, sorted."""
        return [name for name in self.names() if stat.S_ISDIR(self._stat(name).st_mode)]

    def group_of(self, name: str) -> tuple[int, int]:
        """Return the mode and the group of a file."""
        found = self._stat(name)
        return stat.S_IMODE(found.st_mode), found.st_gid

    def oldest_first(self) -> list[str]:
        """Return the names in the directory by time of last change."""
        return sorted(self.names(), key=lambda name: (self._stat(name).st_ctime_ns, name))

    def _stat(self, name: str) -> os.stat_result:
        try:
            return self._system.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "examine")

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
        inner = self.sub(name, mode=_ANY)
        if inner is None:
            return
        with inner:
            for entry in inner.names():
                inner.remove(entry)
        try:
            self._system.rmdir(name, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, f"{self.path}/{name}", "remove")

    def sweep(self) -> None:
        """Remove what a crash left half written."""
        left = [name for name in self.names() if is_temporary(name)]
        for name in left:
            self.remove(name)
        if left:
            self.sync()

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold an exclusive lock on a file of this directory; yield whether it was given at once."""
        path = f"{self.path}/{name}"
        try:
            fd = self._system.open(name, os.O_RDWR | os.O_CREAT | _OPEN, 0o600, dir_fd=self.fd)
        except OSError as exc:
            refuse(exc, path, "open")
        try:
            # Whoever may open it may hold it against keydist for ever.
            self._examine(fd, path, forbidden=_OTHERS, regular=True)
            yield self._lock(fd, path)
        finally:
            self._close(fd)

    def _lock(self, fd: int, path: str) -> bool:
        try:
            self._system.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            refuse(exc, path, "lock")
        return True
