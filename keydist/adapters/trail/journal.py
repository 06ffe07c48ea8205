"""The journal of the audit trail in the state directory: append, sync, numbered files of one chain each.

A file's name says which chain and from which record on: `<number>-<chain>-<seq>.jsonl`. Whoever appends holds the
lock, reads the last record and links to it. A line that a crash left without its end was never a record: it goes at
the next append. Where the last line cannot be read otherwise, it stays for who looks into it, and a new chain begins;
so it does behind the record of another node, which is what a renamed node or a cloned state directory has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.reading import TRAIL
from keydist.adapters.disk.system import System
from keydist.core.audit import CHAIN_HEX, HASH_BYTES, Event, Facts, Link, Place
from keydist.core.audit_record import MAX_RECORD, compose, parse_entry
from keydist.core.strict import b64url_encode, exact_members, fixed, integer, is_hex, parse_object, serialise
from keydist.errors import BusyError, DiskError, KeydistError, MalformedError

if TYPE_CHECKING:
    from keydist.ports import Entropy

LOCK_SECONDS: Final = 2.0
FILE_BYTES: Final = 256 * 1024
"""A file that has so much is followed by another."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""Files that the stream has taken whole go, the oldest first, while there is more than this."""
_MOST: Final = FILE_BYTES + MAX_RECORD + 1
_OWN: Final = 0o700
_SHIPPED: Final = "shipped.json"
_LOCK: Final = "lock"
_LOCK_PAUSE: Final = 0.01
_NAME: Final = re.compile(r"(\d{8})-([0-9a-f]{16})-(\d{16})\.jsonl", re.ASCII)


class _File(NamedTuple):
    """One file: its place in the order, its chain, its first record."""

    number: int
    chain: str
    first: int

    @property
    def name(self) -> str:
        return f"{self.number:08d}-{self.chain}-{self.first:016d}.jsonl"


class _End(NamedTuple):
    """The end of a journal: its last file, what that holds of whole lines, if more, and the last record if ours."""

    file: _File | None
    whole: bytes
    is_torn: bool
    link: Link | None


class FileJournal:
    """A `TrailJournal`; several processes of one user may share it."""

    def __init__(
        self,
        state_dir: str,
        place: Place,
        entropy: Entropy,
        *,
        directory_mode: int = _OWN,
        system: System | None = None,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._path = state_dir
        self._place = place
        self._entropy = entropy
        self._mode = directory_mode
        self._system = system or System()
        self._lock_seconds = lock_seconds

    # --- writing -------------------------------------------------------------------------------

    def append(self, event: Event, *, at: int, who: Facts) -> None:
        """Write the record of an event; see `TrailJournal`."""
        with self._locked() as folder:
            end = self._healed(folder, self._end(folder))
            link = end.link or Link(chain=self._entropy.random(CHAIN_HEX // 2).hex())
            line = compose(event, self._place, link, at=at, who=who) + b"\n"
            if end.file is not None and end.link is not None and len(end.whole) < FILE_BYTES:
                folder.append(end.file.name, line)
                return
            number = end.file.number + 1 if end.file else 1
            fresh = _File(number, link.chain, link.seq + 1)
            folder.replace(fresh.name, line, mode=0o600)

    def note_shipped(self, link: Link) -> None:
        """Note what the stream took last; see `TrailJournal`."""
        noted = {"chain": link.chain, "seq": link.seq, "hash": b64url_encode(link.hash)}
        with self._locked() as folder:
            folder.replace(_SHIPPED, serialise(noted), mode=0o600)
            self._trim(folder, link)

    @staticmethod
    def _trim(folder: Directory, link: Link) -> None:
        """Remove the oldest files that the stream has taken whole, while there are too many."""
        files = _files(folder)
        at = next((i for i, file in reversed(list(enumerate(files))) if _may_hold(file, link.chain, link.seq)), 0)
        gone = files[: max(0, min(at, len(files) - KEPT_BYTES // FILE_BYTES))]
        for file in gone:
            folder.remove(file.name)
        if gone:
            folder.sync()

    def _end(self, folder: Directory) -> _End:
        files = _files(folder)
        if not files:
            return _End(None, b"", is_torn=False, link=None)
        raw = _raw(folder, files[-1])
        rest = raw.rpartition(b"\n")[2]
        whole = raw[: len(raw) - len(rest)]
        return _End(files[-1], whole, is_torn=bool(rest) or not whole, link=self._link(whole))

    def _link(self, whole: bytes) -> Link | None:
        """Return the link of the last of these lines; None where it is no record, or another node's."""
        try:
            entry = parse_entry(whole[:-1].rpartition(b"\n")[2])
        except MalformedError:
            return None
        return entry.link if entry.place == self._place else None

    def _healed(self, folder: Directory, end: _End) -> _End:
        """Take away what a crash left of a record that was never whole."""
        if end.file is None or not end.is_torn:
            return end
        if end.whole:
            folder.replace(end.file.name, end.whole, mode=0o600)
            return end
        folder.remove(end.file.name)
        folder.sync()
        return self._end(folder)

    @contextmanager
    def _locked(self) -> Iterator[Directory]:
        deadline = self._system.monotonic() + self._lock_seconds
        with self._root() as root, root.make(TRAIL, mode=_OWN, gid=None) as folder:
            while True:
                with folder.locked(_LOCK) as given:
                    if given:
                        yield folder
                        return
                if self._system.monotonic() >= deadline:
                    raise BusyError(
                        "another keydist process holds the lock of the audit trail",
                        found=f"{folder.path}/{_LOCK} is held for more than {self._lock_seconds:g} s",
                        fix=f"look for it with: fuser {folder.path}/{_LOCK}",
                    )
                self._system.sleep(_LOCK_PAUSE)

    def _root(self) -> Directory:
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            raise DiskError(f"{self._path} is not there: no audit trail is kept", fix="keydist bootstrap makes it")
        return root

    # --- reading -------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[Directory | None]:
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            yield None
            return
        with root:
            folder = root.sub(TRAIL, mode=_OWN)
            if folder is None:
                yield None
                return
            with folder:
                yield folder

    def last(self) -> Link | None:
        """Return the last record's link; see `TrailJournal`."""
        with self._opened() as folder:
            return None if folder is None else self._end(folder).link

    def read_after(self, shipped: Link | None, *, most: int) -> tuple[bytes, ...]:
        """Return the next records; see `TrailJournal`. Records that cannot be read end what is returned."""
        with self._opened() as folder:
            if folder is None:
                return ()
            files, after = _files(folder), 0
            if shipped is not None:
                at = [i for i, file in enumerate(files) if _may_hold(file, shipped.chain, shipped.seq)]
                files, after = (files[at[-1] :], shipped.seq) if at else (files, 0)
            found: list[bytes] = []
            for file in files:
                lines = _lines(folder, file)
                skip = max(0, after - file.first + 1) if shipped and file.chain == shipped.chain else 0
                found += lines[skip : skip + most - len(found)]
                if len(found) >= most:
                    break
            return tuple(found)

    def find(self, chain: str, seq: int) -> bytes | None:
        """Return a record; see `TrailJournal`."""
        with self._opened() as folder:
            files = _files(folder) if folder is not None else []
            for file in reversed(files):
                if folder is not None and _may_hold(file, chain, seq):
                    lines = _lines(folder, file)
                    return lines[seq - file.first] if seq - file.first < len(lines) else None
            return None

    def shipped(self) -> Link | None:
        """Return what is noted as shipped; see `TrailJournal`. What cannot be read is not noted."""
        with self._opened() as folder:
            raw = None if folder is None else folder.read(_SHIPPED, most=_MOST, private=True)
        try:
            return None if raw is None else _parse_shipped(raw)
        except MalformedError:
            return None

    def mark(self) -> object:
        """Return what differs after every record; see `TrailJournal`."""
        try:
            with self._opened() as folder:
                files = _files(folder) if folder is not None else []
                if folder is None or not files:
                    return None
                found = self._system.stat(files[-1].name, dir_fd=folder.fd, follow_symlinks=False)
                return files[-1], found.st_size, found.st_mtime_ns
        except (KeydistError, OSError):
            return None

    def waiting(self) -> int:
        """Return about how many bytes the stream has not taken, in whole files; see `TrailJournal`."""
        with self._opened() as folder:
            if folder is None:
                return 0
            files, link = _files(folder), self.shipped()
            at = [i for i, file in enumerate(files) if link and _may_hold(file, link.chain, link.seq)]
            return (len(files) - 1 - (at[-1] if at else -1)) * FILE_BYTES


def _files(folder: Directory) -> list[_File]:
    found = (_NAME.fullmatch(name) for name in folder.names())
    return sorted(_File(int(match[1]), match[2], int(match[3])) for match in found if match)


def _may_hold(file: _File, chain: str, seq: int) -> bool:
    return file.chain == chain and file.first <= seq


def _raw(folder: Directory, file: _File) -> bytes:
    return folder.read(file.name, most=_MOST, private=True) or b""


def _lines(folder: Directory, file: _File) -> list[bytes]:
    """Return the whole lines of a file: what has no end is not, or not yet, a record."""
    return _raw(folder, file).split(b"\n")[:-1]


def _parse_shipped(raw: bytes) -> Link:
    value = parse_object(raw, _SHIPPED)
    exact_members(value, frozenset({"chain", "seq", "hash"}), frozenset(), _SHIPPED)
    chain = value["chain"]
    if not is_hex(chain, CHAIN_HEX):
        raise MalformedError(f"{_SHIPPED} names no chain", expected=f"{CHAIN_HEX} hex digits")
    return Link(
        chain=str(chain), seq=integer(value["seq"], "seq", least=1), hash=fixed(value["hash"], HASH_BYTES, "hash")
    )
