"""The state directory: an archive of keysets, one live link, the floor beside it.

Installing builds the new archive directory aside, makes it and the public keys durable, swings one link, then
raises the floor. A crash leaves the old link or the new one; what remains to be done is done at the next start.
Everything that writes holds the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keydist.adapters.disk.archive import PEM, Layout, render_pem
from keydist.adapters.disk.evidence import REVOKED
from keydist.adapters.disk.installing import (
    PUBLIC,
    QUARANTINE,
    floor_is_due,
    is_undone,
    must_relay,
    newest_other,
    note,
    read_notes,
    swing,
    tidy,
    trim,
    write_floor,
)
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.reading import (
    AGENT,
    ARCHIVE,
    CONFIRMED,
    FLOOR,
    HOOKS,
    LIVE,
    MOST,
    OVERRIDE,
    SEEN,
    TRAIL,
    load_local,
    read_record,
    stamp,
)
from keydist.adapters.disk.records import format_confirmation, format_notes, format_override, format_start, parse_start
from keydist.adapters.disk.system import System
from keydist.core.accept import Held
from keydist.core.envelope import digest
from keydist.core.local import Confirmation, Local, Start
from keydist.core.notes import Notes
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken
from keydist.errors import BusyError, ConflictError, MalformedError

LOCK_SECONDS: Final = 10.0
MOST_JWK: Final = 4096
"""The largest file of a public key, in bytes: RSA with 4096 bits takes about 800."""
_LOCK_PAUSE: Final = 0.02
_OWN_NAMES: Final = frozenset(
    {LIVE, ARCHIVE, FLOOR, CONFIRMED, SEEN, OVERRIDE, AGENT, HOOKS, TRAIL, PUBLIC, QUARANTINE}
)


class PosixKeysetDisk:
    """A `KeysetDisk` on a real file system; its lock is waited for `lock_seconds`, while which nothing else runs."""

    def __init__(
        self,
        state_dir: str,
        runtime_dir: str,
        layout: Layout,
        system: System | None = None,
        *,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._path = state_dir
        self._runtime = runtime_dir
        self._layout = layout
        self._mode = layout.directory_mode
        self._system = system or System()
        self.lock_seconds = lock_seconds
        self._known: Held | None = None

    @property
    def layout(self) -> Layout:
        """How a keyset is laid out here."""
        return self._layout

    def load(self, tokens: tuple[BootstrapToken, ...]) -> Local:
        """Return what is there, changing nothing; see `KeysetDisk`."""
        root = self._open(self._path)
        if root is None:
            return Local()
        with root:
            local = load_local(root, self._layout, tokens, self._known)
        self._known = local.held
        return local

    def mark(self) -> object:
        """Return what differs after every change, at the price of two stats; see `KeysetDisk`."""
        return self._mark(LIVE), self._mark(CONFIRMED)

    def _mark(self, name: str) -> object:
        try:
            found = self._system.stat(f"{self._path}/{name}", follow_symlinks=False)
        except OSError as exc:
            return exc.errno
        return found.st_ino, found.st_ctime_ns

    def install(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` live; see `KeysetDisk`."""
        asked = self._system.monotonic()
        with self._locked() as root:
            self._check_unmoved(root, based_on)
            predecessor = self._lay(root, new, based_on)
            write_floor(root, self._layout, new, based_on.floor)
            # What is noted as seen was durable before: the wait for the lock and the syncs count.
            durable = now + int(self._system.monotonic() - asked)
            self._finish(root, new, now=durable, keep=predecessor, damaged=based_on.quarantine)

    def override(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` live although it does not descend from what is there: a person chose it.

        The intent is kept first: with it, the link decides what the floor is; without it, the floor decides.
        """
        asked = self._system.monotonic()
        with self._locked() as root:
            self._check_unmoved(root, based_on)
            root.replace(OVERRIDE, format_override(new.digest), mode=0o600)
            predecessor = self._lay(root, new, based_on)
            write_floor(root, self._layout, new, based_on.floor)
            durable = now + int(self._system.monotonic() - asked)
            self._finish(root, new, now=durable, keep=predecessor, damaged=based_on.quarantine)

    def settle(self, local: Local, *, now: int) -> None:
        """Finish what a crash left undone, or lay the keyset out anew where `at_rest` or `group` changed.

        A keyset is not sealed where its token is not held: nothing could open it again. See `KeysetDisk`.
        """
        held, floor = local.held, local.floor
        root = self._open(self._path) if held is not None and floor is not None else None
        if held is None or floor is None or root is None:
            return
        with root:
            due = is_undone(root, self._layout, local, held, floor, now=now)
        if not due and not self._pem_is_due(held):
            return
        with self._locked() as root:
            self._check_unmoved(root, local)
            keep = newest_other(root, self._layout)
            if must_relay(root, self._layout, local):
                self._lay(root, held, local)
                keep = None
            if floor_is_due(root, floor):
                write_floor(root, self._layout, held, floor)
            self._finish(root, held, now=now, keep=keep, damaged=False)

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep when the epoch was last confirmed; see `KeysetDisk`."""
        with self._locked() as root:
            root.replace(CONFIRMED, format_confirmation(confirmation), mode=0o600)

    def notes(self) -> Notes:
        """Return what this node noted by its own clock; see `KeysetDisk`."""
        root = self._open(self._path)
        if root is None:
            return Notes()
        with root:
            return read_notes(root)

    def public_jwk(self, kid: str) -> bytes | None:
        """Return the public key that was kept of a kid; see `PublicKeys`."""
        with self._public() as public:
            return None if public is None else public.read(f"{kid}.jwk", most=MOST_JWK)

    def was_revoked(self, kid: str) -> bool:
        """Tell whether the mark of a revoked key stands beside it; see `PublicKeys`."""
        with self._public() as public:
            return public is not None and f"{kid}{REVOKED}" in public.names()

    @contextmanager
    def _public(self) -> Iterator[Directory | None]:
        root = self._open(self._path)
        if root is None:
            yield None
            return
        with root:
            public = root.sub(PUBLIC, mode=self._mode)
            if public is None:
                yield None
                return
            with public:
                yield public

    def note_done(self, *, republished: int | None = None, rehearsed: int | None = None) -> None:
        """Keep when this node put its keyset back, or tried a backup out; see `KeysetDisk`."""
        with self._locked() as root:
            notes = read_notes(root)
            fresh = notes._replace(
                republished=notes.republished if republished is None else republished,
                rehearsed=notes.rehearsed if rehearsed is None else rehearsed,
            )
            root.replace(SEEN, format_notes(fresh), mode=0o600)

    def quarantine(self, envelope: bytes) -> None:
        """Keep a refused envelope; see `KeysetDisk`. A node without a state directory keeps none."""
        root = self._open(self._path)
        if root is None:
            return
        root.close()
        name = f"{b64url_encode(digest(envelope))}.jwe"
        with self._locked() as root, root.make(QUARANTINE, mode=self._mode, gid=self._layout.gid) as cell:
            if name not in cell.names():
                cell.replace(name, envelope, mode=0o600)
                trim(cell)

    def count_start(self, fresh: str, *, now: int) -> Start:
        """Count one more start; see `KeysetDisk`."""
        with self._locked() as root:
            earlier = _read_start(root) or Start(instance=fresh, number=0)
            start = earlier._replace(number=max(earlier.number + 1, now))
            root.replace(AGENT, format_start(start), mode=0o600)
            return start

    def last_start(self) -> Start | None:
        """Return the last start that was counted; see `KeysetDisk`."""
        root = self._open(self._path)
        if root is None:
            return None
        with root:
            return _read_start(root)

    def reset(self) -> bool:
        """Forget everything that keydist keeps here; tell whether there was anything."""
        root = self._open(self._path)
        if root is None:
            return self._drop_runtime()
        root.close()
        with self._locked() as root:
            mine = [name for name in root.names() if name.removeprefix(".").removesuffix(".new") in _OWN_NAMES]
            rendered = self._drop_runtime()
            # The link first: a crash in between leaves signs of a keyset, never half of one.
            root.remove(LIVE)
            root.sync()
            for name in mine:
                root.remove(name)
            root.sync()
        return bool(mine) or rendered

    # --- steps ---------------------------------------------------------------------------------

    def _open(self, path: str) -> Directory | None:
        return Directory.open_root(path, mode=self._mode, system=self._system)

    def _make(self, path: str) -> Directory:
        return Directory.make_root(path, mode=self._mode, gid=self._layout.gid, system=self._system)

    @contextmanager
    def _locked(self) -> Iterator[Directory]:
        deadline = self._system.monotonic() + self.lock_seconds
        with self._make(self._path) as root:
            while True:
                with root.locked("lock") as given:
                    if given:
                        yield root
                        return
                if self._system.monotonic() >= deadline:
                    raise BusyError(
                        "another keydist process holds the lock of the state directory",
                        found=f"{self._path}/lock is held for more than {self.lock_seconds:g} s",
                        fix=f"look for it with: fuser {self._path}/lock",
                    )
                self._system.sleep(_LOCK_PAUSE)

    @staticmethod
    def _check_unmoved(root: Directory, based_on: Local) -> None:
        if based_on.stamp is not None and based_on.stamp != stamp(root):
            raise ConflictError(
                "another keydist process installed a keyset meanwhile", fix="nothing is lost: run the command again"
            )
        if based_on.stamp is None and (root.pointed(LIVE) is not None or FLOOR in root.names()):
            raise ConflictError(
                "another keydist process installed the first keyset meanwhile",
                fix="nothing is lost: run the command again",
            )

    def _lay(self, root: Directory, new: Held, based_on: Local) -> str | None:
        """Swing the link to `new`; return the name of the archive directory that was live.

        Where keysets are no longer sealed, nothing would renew the PEM that was rendered: it goes first.
        """
        if not self._layout.sealed and must_relay(root, self._layout, based_on):
            self._drop_runtime()
        self._known = new
        return swing(root, self._layout, new)

    def _finish(self, root: Directory, new: Held, *, now: int, keep: str | None, damaged: bool) -> None:
        """Note what was seen, render the runtime PEM, drop what is neither live nor its predecessor `keep`."""
        note(root, new, now=now)
        if self._layout.sealed and self._pem_is_due(new):
            with self._make(self._runtime) as runtime:
                runtime.replace(PEM, render_pem(new), mode=self._layout.file_mode(PEM), gid=self._layout.gid)
        tidy(root, self._layout, keep=keep, damaged=damaged)
        if OVERRIDE in root.names():
            root.remove(OVERRIDE)
            root.sync()

    def _pem_is_due(self, held: Held) -> bool:
        """Tell whether the runtime directory should show another signing key, or one at all."""
        if not self._layout.sealed:
            return False
        runtime = self._open(self._runtime)
        if runtime is None:
            return True
        with runtime:
            found = runtime.read(PEM, most=MOST, private=True, group=self._layout.gid is not None)
            return found != render_pem(held)

    def _drop_runtime(self) -> bool:
        runtime = self._open(self._runtime)
        if runtime is None:
            return False
        with runtime:
            rendered = PEM in runtime.names()
            runtime.remove(PEM)
        return rendered


def _read_start(root: Directory) -> Start | None:
    try:
        return parse_start(read_record(root, AGENT) or b"")
    except MalformedError:
        return None
