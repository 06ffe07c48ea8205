"""The system calls of a state directory, counted, with faults to inject; and a disk that loses what was not synced.

`FaultySystem` does what the real calls do. Before each one it asks its `fault`: an `OSError` fails that call, a
`Crash` ends the process: nothing after it happens, but that the kernel closes descriptors and lets go of locks.

`LossySystem` also knows what would survive a power cut: the content of files that were synced, and the entries
of directories that were synced after they were made, renamed or removed.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from keydist.adapters.disk.system import System

WAITS: Final = frozenset({"monotonic", "sleep"})
CALLS: Final = frozenset(name for name in vars(System) if not name.startswith("_")) - WAITS
CHANGES: Final = frozenset({"write", "rename", "symlink", "mkdir", "rmdir", "unlink", "fchmod", "fchown", "fsync"})


class Crash(BaseException):
    """The process stops here."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: which one it is of this process (from 1), its name, and its first argument."""

    number: int
    name: str
    argument: object

    def changes_the_disk(self) -> bool:
        """Tell whether stopping before this call may leave another disk than stopping before the one after it."""
        return self.name in CHANGES or self.name == "open"


Fault = Callable[[Call], BaseException | None]


def none(_call: Call) -> BaseException | None:
    return None


def at(number: int, error: BaseException) -> Fault:
    """Return the fault that strikes before one call."""
    return lambda call: error if call.number == number else None


class FaultySystem(System):
    """Counts calls, lets `fault` strike before any, and cuts writes short on request. Nothing is really synced.

    `instead` replaces calls by name, where a machine is to be other than the one that runs the test.
    """

    def __init__(
        self,
        fault: Fault = none,
        *,
        short_writes: bool = False,
        instead: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.fault = fault
        self._short_writes = short_writes
        self._dead = False
        self._instead = instead or {}

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real call is
        real: Any = super().__getattribute__(name)
        if name in CALLS:
            return partial(self._call, name, real)
        return self._instead.get(name, real) if name in WAITS else real

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        if name == "close":
            real(*args, **options)  # the kernel does it for a dead process, and even where it then reports an error
        if self._dead:
            if name == "close":
                return None
            raise Crash
        call = Call(len(self.calls) + 1, name, args[0])
        self.calls.append(call)
        error = self.fault(call)
        if error is not None:
            self._dead = isinstance(error, Crash)
            raise error
        return None if name == "close" else self._perform(name, real, *args, **options)

    def _perform(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        if name in self._instead:
            return self._instead[name](*args, **options)
        if name == "fsync":
            return None
        if name == "write" and self._short_writes:
            fd, data = args
            return real(fd, data[: max(1, len(data) // 2)])
        return real(*args, **options)


@dataclass(slots=True)
class _Unsynced:
    """A change of directory entries that a power cut would undo; `directories` by inode, any sync of one keeps it."""

    directories: frozenset[int]
    undo: Callable[[], None]
    descriptors: list[int] = field(default_factory=list)

    def forget(self) -> None:
        for fd in self.descriptors:
            os.close(fd)


class LossySystem(FaultySystem):
    """A disk that keeps only what was synced once `cut_power` is called. `attic` is a folder outside of it."""

    def __init__(self, attic: Path, fault: Fault = none) -> None:
        super().__init__(fault)
        self._attic = attic
        self._numbers = count()
        self._changes: list[_Unsynced] = []
        self._unsynced_files: dict[int, int] = {}
        self._synced_sizes: dict[int, int] = {}
        attic.mkdir(parents=True, exist_ok=True)

    def cut_power(self, *, entries: bool) -> None:
        """Lose the content of files that was not synced and, where `entries`, what happened to directories too."""
        for inode, fd in self._unsynced_files.items():
            os.ftruncate(fd, self._synced_sizes.get(inode, 0))
        if entries:
            for change in reversed(self._changes):
                with suppress(FileNotFoundError):  # it is in a directory that is itself lost
                    change.undo()
        self.release()

    def release(self) -> None:
        """Let go of what is remembered, losing nothing."""
        for change in self._changes:
            change.forget()
        for fd in self._unsynced_files.values():
            os.close(fd)
        self._changes, self._unsynced_files = [], {}

    def _perform(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        result: Any = None
        match name:
            case "fsync":
                self._sync(*args)
            case "unlink" | "rmdir":
                self._remove(real, *args, **options)
            case "rename":
                self._rename(real, *args, **options)
            case _:
                result = real(*args, **options)
        if name == "open" and args[1] & os.O_EXCL:
            self._unsynced_files[os.fstat(result).st_ino] = os.dup(result)
            self._made(args[0], options["dir_fd"])
        elif name == "open" and args[1] & os.O_APPEND:  # what it holds already was synced
            found = os.fstat(result)
            self._unsynced_files.setdefault(found.st_ino, os.dup(result))
            self._synced_sizes.setdefault(found.st_ino, found.st_size)
        elif name == "mkdir":
            self._made(args[0], options.get("dir_fd"))
        elif name == "symlink":
            self._made(args[1], options["dir_fd"])
        return result

    def _sync(self, fd: int) -> None:
        found = os.fstat(fd)
        if not stat.S_ISDIR(found.st_mode):
            kept = self._unsynced_files.pop(found.st_ino, None)
            if kept is not None:
                os.close(kept)
            self._synced_sizes.pop(found.st_ino, None)
            return
        for change in [change for change in self._changes if found.st_ino in change.directories]:
            change.forget()
            self._changes.remove(change)

    def _remember(self, parents: list[int], undo: Callable[[], None]) -> None:
        inodes = frozenset(os.fstat(fd).st_ino for fd in parents)
        self._changes.append(_Unsynced(inodes, undo, parents))

    def _made(self, name: str, dir_fd: int | None) -> None:
        if dir_fd is None:
            path = Path(name)
            name, parent = path.name, os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        else:
            parent = os.dup(dir_fd)

        def undo() -> None:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)

        self._remember([parent], undo)

    def _put_away(self, name: str, parent: int) -> Path:
        kept = self._attic / str(next(self._numbers))
        os.rename(name, kept, src_dir_fd=parent)
        return kept

    def _remove(self, real: Callable[..., Any], name: str, *, dir_fd: int) -> None:
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            is_directory = True  # let the real call say so
        if is_directory is (real is not os.rmdir):
            real(name, dir_fd=dir_fd)
        parent = os.dup(dir_fd)
        kept = self._put_away(name, parent)
        self._remember([parent], lambda: os.rename(kept, name, dst_dir_fd=parent))

    def _rename(self, real: Callable[..., Any], name: str, to: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        source, target = os.dup(src_dir_fd), os.dup(dst_dir_fd)
        kept = None
        with suppress(FileNotFoundError):
            kept = self._put_away(to, target)
        real(name, to, src_dir_fd=source, dst_dir_fd=target)

        def undo() -> None:
            os.rename(to, name, src_dir_fd=target, dst_dir_fd=source)
            if kept is not None:
                os.rename(kept, to, dst_dir_fd=target)

        self._remember([source, target], undo)
