"""How many JWTs were minted under each key: one file a process in the runtime directory, summed for the node record.

A process counts in memory and writes its own file at the first JWT under a key, then at most once a second. It holds
the lock of its file while it lives; the agent folds the files of the dead into a total. Counts need no fsync: they
live as long as the runtime directory does. A crash while folding counts twice, which only lets a key rotate sooner.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.core.plaintext import parse_kid
from keydist.core.record import Minted
from keydist.core.strict import array_of, integer, parse_object, serialise
from keydist.errors import KeydistError, MalformedError

if TYPE_CHECKING:
    from _typeshed import HasFileno

    from keydist.ports import Clock

FOLDER: Final = "mints"
TOTAL: Final = "total.json"
_FOLDING: Final = "folding"
_MOST: Final = 65_536
_PROCESSES: Final = 64
_AT_ONCE: Final = 256
"""So many files are folded in one go: each is held open until it is gone, and a process may open a thousand."""
_SECONDS: Final = 1.0
_READABLE: Final = 0o750
"""The runtime directory's mode where a group reads the PEM in it; the folder below is the owner's alone."""
_OWN: Final = 0o700


Counts = dict[str, Minted]
_NONE: Final = Minted(0, 0)


def _leave_to_kernel(fd: int | HasFileno) -> None:
    """Sync nothing."""


class _Volatile(System):
    """System calls under the runtime directory, where nothing has to be durable."""

    fsync = staticmethod(_leave_to_kernel)


_SYSTEM: Final = _Volatile()


class MintCounter:
    """Counts what this process mints. Threads may share one, and a forked child begins anew. Never raises."""

    def __init__(self, runtime_dir: str, clock: Clock) -> None:
        self._runtime = runtime_dir
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._counts: Counts = {}
        self._save_at = 0.0
        self._is_saved = True
        self._name: str | None = None
        self._own: tuple[Directory, ExitStack] | None = None
        self._pid = os.getpid()  # last: another thread of a child must not take the lock of before

    def minted(self, kid: str, expires: int) -> None:
        """Count one JWT under `kid` that expires at a unix second."""
        if os.getpid() != self._pid:
            self._begin()  # what the parent counted is the parent's; its lock is not this process's either
        with self._lock:
            before = self._counts.get(kid, _NONE)
            self._counts[kid] = Minted(before.jwts + 1, max(before.last_expiry, expires))
            self._is_saved = False
            if before is _NONE or self._clock.monotonic() >= self._save_at:
                self._save()

    def close(self) -> None:
        """Write what was counted and let go of the file; the next JWT would take another one."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._is_saved:
                self._save()
            self._let_go()
            self._counts, self._name = {}, None
        atexit.unregister(self.close)

    def _save(self) -> None:
        """Write the counts; where that fails they stay in memory until the next time."""
        self._save_at = self._clock.monotonic() + _SECONDS
        try:
            if self._own is None:
                self._own = self._settle()
            if self._own is not None:
                folder, _ = self._own
                folder.replace(f"{self._name}.json", format_mints(self._counts), mode=0o600)
                self._is_saved = True
        except KeydistError:
            self._let_go()

    def _settle(self) -> tuple[Directory, ExitStack] | None:
        """Take a name that no other process has, living or dead; None where another one settles just now."""
        with ExitStack() as stack:
            runtime = stack.enter_context(_runtime(self._runtime))
            folder = stack.enter_context(runtime.make(FOLDER, mode=_OWN, gid=None))
            with folder.locked(_FOLDING) as given:
                taken = folder.names()
                for number in range(_PROCESSES if given else 0):
                    name = f"{self._pid}-{number}"
                    is_free = f"{name}.json" not in taken or name == self._name
                    if is_free and stack.enter_context(folder.locked(f"{name}.lock")):
                        self._name = name
                        atexit.register(self.close)
                        return folder, stack.pop_all()
        return None

    def _let_go(self) -> None:
        if self._own is not None:
            own, self._own = self._own, None
            own[1].close()


def _runtime(path: str) -> Directory:
    found = Directory.open_root(path, mode=_READABLE, system=_SYSTEM)
    return Directory.make_root(path, mode=_OWN, gid=None, system=_SYSTEM) if found is None else found


def make_private(runtime_dir: str) -> None:
    """Make the runtime directory, for its owner alone, where there is none. Raises `DiskError` and the like."""
    _runtime(runtime_dir).close()


def read_mints(runtime_dir: str) -> Counts:
    """Return what all processes minted, living and dead. What cannot be read does not count; nothing is raised."""
    total: Counts = {}
    with suppress(KeydistError), ExitStack() as stack:
        folder = _open(runtime_dir, stack)
        for name in folder.names() if folder is not None else ():
            if folder is not None and name.endswith(".json"):
                _add(total, _read(folder, name))
    return total


def fold_mints(runtime_dir: str, keep: frozenset[str]) -> None:
    """Move the counts of dead processes, of many in several turns, into the total, and keep only the kids in `keep`.

    Where another process is at it, or none ever minted, nothing is done. Raises `DiskError` and the like.
    """
    with ExitStack() as stack:
        folder = _open(runtime_dir, stack)
        if folder is None or not stack.enter_context(folder.locked(_FOLDING)):
            return
        before = _read(folder, TOTAL)
        total = dict(before)
        gone: list[str] = []
        for lock in (name for name in folder.names() if name.endswith(".lock")):
            if len(gone) >= 2 * _AT_ONCE:
                break
            name = lock.removesuffix(".lock") + ".json"
            if stack.enter_context(folder.locked(lock)):  # and held until its files are gone
                _add(total, _read(folder, name))
                gone += [name, lock]
        total = {kid: minted for kid, minted in total.items() if kid in keep}
        if total != before:
            folder.replace(TOTAL, format_mints(total), mode=0o600)
        for name in gone:
            folder.remove(name)


def _open(runtime_dir: str, stack: ExitStack) -> Directory | None:
    runtime = Directory.open_root(runtime_dir, mode=_READABLE, system=_SYSTEM)
    if runtime is None:
        return None
    folder = stack.enter_context(runtime).sub(FOLDER, mode=_OWN)
    return None if folder is None else stack.enter_context(folder)


def _read(folder: Directory, name: str) -> Counts:
    try:
        raw = folder.read(name, most=_MOST, private=True)
        return {} if raw is None else parse_mints(raw)
    except KeydistError:
        return {}


def _add(total: Counts, counts: Mapping[str, Minted]) -> None:
    for kid, minted in counts.items():
        total[kid] = _sum(total.get(kid, _NONE), minted)


def _sum(one: Minted, other: Minted) -> Minted:
    return Minted(one.jwts + other.jwts, max(one.last_expiry, other.last_expiry))


def format_mints(counts: Mapping[str, Minted]) -> bytes:
    """Return the file of one process, or the total."""
    return serialise(counts)


def parse_mints(raw: bytes) -> Counts:
    """Parse such a file. Raises `MalformedError`."""
    return {parse_kid(kid): _parse_minted(value) for kid, value in parse_object(raw, "a count of JWTs").items()}


def _parse_minted(value: object) -> Minted:
    numbers = array_of(value, lambda item: integer(item, "a count of JWTs"), "a count of JWTs", most=2)
    if len(numbers) != len(Minted._fields):
        raise MalformedError("a count of JWTs is not well formed", expected="a count and an expiry")
    return Minted(*numbers)
