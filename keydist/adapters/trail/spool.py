"""What processes mint, on its way into the journal: one line a JWT, in files of the runtime directory.

A process appends a line to a file of its own with one write into memory, so that a JWT waits for no disk, and what it
wrote outlives it. Before each write it takes the file's lock and sees that the file is still there. The agent takes
the lock of a file that nobody writes to just now, puts its lines into the journal, and removes it: who wrote to it
then begins another. A power cut loses what was not folded yet. An agent that dies while it folds leaves lines twice.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.core.audit import Mint, mint_json
from keydist.core.audit_record import MAX_MINTS_BYTES, parse_mint
from keydist.core.strict import integer, parse_object, serialise
from keydist.errors import KeydistError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER: Final = "audit-mints"
FILE_BYTES: Final = 4 * 1024 * 1024
"""So much of a process waits for an agent; what is more is only counted."""
_MOST: Final = FILE_BYTES + 64 * 1024
_TRIES: Final = 64
_FILES: Final = 256
"""Who comes later shares one of these: without an agent, one command after another would fill the memory with files."""
_WRITES: Final = 16
"""So many files in a row may be folded away between their making and the first line; nothing waits meanwhile."""
_READABLE: Final = 0o750
_OWN: Final = 0o700
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_SYSTEM: Final = System()


class MintSpool:
    """A `MintTrail` of this process. Threads may share one, and a forked child begins anew. Never raises."""

    def __init__(self, runtime_dir: str) -> None:
        self._runtime = runtime_dir
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._fd: int | None = None
        self._left_out = 0
        self._pid = os.getpid()  # last: another thread of a child must not take the lock of before

    def minted(self, mint: Mint) -> None:
        """Keep one JWT for the trail; where nobody asked for it, this process did."""
        if mint.uid is None:
            mint = mint._replace(uid=os.getuid())
        line = serialise(mint_json(mint)) + b"\n"
        if os.getpid() != self._pid:
            self._begin()  # the parent's file has the parent's lock
        with self._lock:
            if self._left_out:
                line = serialise({"left_out": self._left_out}) + b"\n" + line
            try:
                is_written = self._write(line)
            except (KeydistError, OSError):
                self._let_go()
                is_written = False
            self._left_out = 0 if is_written else self._left_out + 1

    def close(self) -> None:
        """Let go of the file."""
        if os.getpid() == self._pid:
            with self._lock:
                self._let_go()

    def _write(self, line: bytes) -> bool:
        """Write a line to a file that is there and locked; tell whether there was room."""
        for _ in range(_WRITES):
            if self._fd is None:
                self._fd = self._opened()
            fd = self._fd
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                try:
                    found = os.fstat(fd)
                    if found.st_nlink:
                        return found.st_size + len(line) <= FILE_BYTES and os.write(fd, line) == len(line)
                finally:
                    fcntl.flock(fd, fcntl.LOCK_UN)
            self._let_go()  # an agent folds it, or has
        return False

    def _opened(self) -> int:
        with ExitStack() as stack:
            runtime = Directory.open_root(self._runtime, mode=_READABLE, system=_SYSTEM)
            if runtime is None:
                runtime = Directory.make_root(self._runtime, mode=_OWN, gid=None, system=_SYSTEM)
            folder = stack.enter_context(stack.enter_context(runtime).make(FOLDER, mode=_OWN, gid=None))
            names = folder.names()
            if len(names) >= _FILES:
                return _shared(folder, names)
            for number in range(_TRIES):
                with suppress(FileExistsError):
                    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | _OPEN
                    return os.open(f"{self._pid}-{number}.spool", flags, 0o600, dir_fd=folder.fd)
        raise FileExistsError

    def _let_go(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _shared(folder: Directory, names: list[str]) -> int:
    """Open a file that another process began: its lines are whole, and the lock for writing is a shared one."""
    for name in names:
        with suppress(FileNotFoundError):
            fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | _OPEN, dir_fd=folder.fd)
            if os.fstat(fd).st_size < FILE_BYTES // 2:
                return fd
            os.close(fd)
    raise FileExistsError


def fold_spools(runtime_dir: str, keep: Callable[[tuple[Mint, ...], int], bool]) -> None:
    """Hand what processes minted to `keep`, a file at a time, with the number left out; remove what it kept.

    `keep` tells whether it kept all of it durably: if not, the file stays. Raises `DiskError` and the like.
    """
    with ExitStack() as stack:
        runtime = Directory.open_root(runtime_dir, mode=_READABLE, system=_SYSTEM)
        if runtime is None:
            return
        folder = stack.enter_context(runtime).sub(FOLDER, mode=_OWN)
        if folder is None:
            return
        stack.enter_context(folder)
        for name in folder.names():
            if name.endswith(".spool") and not _fold(folder, name, keep):
                return  # what keeps one back keeps all


def _fold(folder: Directory, name: str, keep: Callable[[tuple[Mint, ...], int], bool]) -> bool:
    with folder.locked(name) as given:
        if not given:
            return True  # somebody writes to it just now
        raw = folder.read(name, most=_MOST, private=True) or b""
        is_kept = keep(*_parse(raw))
        if is_kept:
            folder.remove(name)
        return is_kept


def _parse(raw: bytes) -> tuple[tuple[Mint, ...], int]:
    mints: list[Mint] = []
    left_out = 0
    for line in raw.split(b"\n")[:-1]:
        try:
            if line.startswith(b'{"left_out":'):
                left_out += integer(parse_object(line, "a spool")["left_out"], "left_out")
            else:
                mints.append(parse_mint(line))
        except MalformedError:
            left_out += 1  # a full disk cut it: it was a JWT, and more is not known
    return tuple(mints), left_out


def batches(mints: tuple[Mint, ...]) -> Iterator[tuple[Mint, ...]]:
    """Yield JWTs in groups that one record holds."""
    group: list[Mint] = []
    size = 0
    for mint in mints:
        more = len(serialise(mint_json(mint))) + 1
        if group and (size + more > MAX_MINTS_BYTES or len(group) >= _TRIES * 4):
            yield tuple(group)
            group, size = [], 0
        group.append(mint)
        size += more
    if group:
        yield tuple(group)
