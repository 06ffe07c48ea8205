"""The state directory: an archive of keysets, one live link, the floor beside it.

Installing builds the new archive directory aside, makes it and the public keys durable, swings one link, then
raises the floor. A crash leaves the old link or the new one; what remains to be done is done at the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep  # noqa: TID251 - a lock is held for milliseconds, and no event loop turns here
from typing import Final

from keydist.adapters.disk.archive import PEM, Layout, is_sealed, render, render_pem
from keydist.adapters.disk.posix import Directory, System
from keydist.adapters.disk.reading import ARCHIVE, CONFIRMED, FLOOR, LIVE, MOST, load_local, stamp
from keydist.adapters.disk.records import (
    Seen,
    format_confirmation,
    format_floor,
    note_seen,
    parse_seen,
    raised_floor,
)
from keydist.core.accept import Floor, Held
from keydist.core.envelope import digest
from keydist.core.jwk import public_jwk
from keydist.core.strict import b64url_encode, serialise
from keydist.core.token import BootstrapToken
from keydist.errors import BusyError, ConflictError, MalformedError
from keydist.ports import Confirmation, Local

_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSE: Final = 0.02
_QUARANTINED: Final = 8
_OWN_NAMES: Final = frozenset({LIVE, ARCHIVE, FLOOR, CONFIRMED, "seen.json", "public", "quarantine"})


class PosixKeysetDisk:
    """A `KeysetDisk` on a real file system."""

    def __init__(self, state_dir: str, runtime_dir: str, layout: Layout, system: System | None = None) -> None:
        self._path = state_dir
        self._runtime = runtime_dir
        self._layout = layout
        self._mode = layout.directory_mode
        self._system = system or System()

    def load(self, tokens: tuple[BootstrapToken, ...]) -> Local:
        """Return what is there, changing nothing; see `KeysetDisk`."""
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            return Local()
        with root:
            return load_local(root, self._layout, tokens)

    def install(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` live; see `KeysetDisk`."""
        with self._locked() as root:
            self._check_unmoved(root, based_on)
            predecessor = self._swing(root, new)
            self._write_floor(root, new, based_on.floor)
            self._finish(root, new, now=now, keep=predecessor, quarantine=based_on.quarantine)

    def override(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` live although it does not descend from what is there: a person chose it.

        The floor moves first: until the link has swung, the live epoch is the effective floor.
        """
        with self._locked() as root:
            self._check_unmoved(root, based_on)
            self._write_floor(root, new, based_on.floor)
            predecessor = self._swing(root, new)
            self._finish(root, new, now=now, keep=predecessor, quarantine=based_on.quarantine)

    def settle(self, local: Local, *, now: int) -> None:
        """Finish what a crash left undone, or lay the keyset out anew where `at_rest` changed; see `KeysetDisk`."""
        if local.held is None or local.floor is None:
            return
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            return
        with root:
            relay = self._live_is_sealed(root) != self._layout.sealed
            floor_due = root.read(FLOOR, most=MOST, private=True) != format_floor(local.floor)
            due = relay or floor_due or self._seen_due(root, local.held, now) is not None
        if due:
            with self._locked() as root:
                self._check_unmoved(root, local)
                if relay:
                    self._swing(root, local.held)
                self._write_floor(root, local.held, local.floor)
                keep = None if relay else self._newest_other(root)
                self._finish(root, local.held, now=now, keep=keep, quarantine=False)
        elif self._layout.sealed:
            self._render_runtime(local.held)

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep when the epoch was last confirmed; see `KeysetDisk`."""
        with self._root() as root:
            root.replace(CONFIRMED, format_confirmation(confirmation), mode=0o600)

    def quarantine(self, envelope: bytes) -> None:
        """Keep a refused envelope; see `KeysetDisk`."""
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            return
        with root, root.make("quarantine", mode=self._mode, gid=self._layout.gid) as cell:
            name = f"{b64url_encode(digest(envelope))}.jwe"
            if name not in cell.names():
                cell.replace(name, envelope, mode=0o600)
                self._trim(cell)

    def reset(self) -> bool:
        """Forget everything that keydist keeps here; tell whether there was anything."""
        root = Directory.open_root(self._path, mode=self._mode, system=self._system)
        if root is None:
            return False
        root.close()
        with self._locked() as root:
            mine = [name for name in root.names() if name.removeprefix(".").removesuffix(".new") in _OWN_NAMES]
            # The link first: a crash in between leaves signs of a keyset, never half of one.
            for name in sorted(mine, key=lambda name: (name != LIVE, name == FLOOR)):
                root.remove(name)
            root.sync()
        runtime = Directory.open_root(self._runtime, mode=self._mode, system=self._system)
        if runtime is not None:
            with runtime:
                runtime.remove(PEM)
        return bool(mine)

    # --- steps of an installation --------------------------------------------------------------

    def _root(self) -> Directory:
        return Directory.make_root(self._path, mode=self._mode, gid=self._layout.gid, system=self._system)

    @contextmanager
    def _locked(self) -> Iterator[Directory]:
        deadline = monotonic() + _LOCK_SECONDS
        with self._root() as root:
            while True:
                with root.locked("lock") as given:
                    if given:
                        yield root
                        return
                if monotonic() >= deadline:
                    raise BusyError(
                        "another keydist process holds the lock of the state directory",
                        found=f"{self._path}/lock is held for more than {_LOCK_SECONDS:.0f} s",
                        fix="look for it with: fuser " + f"{self._path}/lock",
                    )
                sleep(_LOCK_PAUSE)

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

    def _swing(self, root: Directory, new: Held) -> str | None:
        """Build the archive directory aside, make it and the public keys durable, swing the link.

        Return the name of the archive directory that was live.
        """
        layout, live = self._layout, root.pointed(LIVE)
        with root.make(ARCHIVE, mode=self._mode, gid=layout.gid) as archive:
            name, suffix = f"{new.keyset.epoch:06d}", 0
            while live == f"{ARCHIVE}/{name}":
                suffix += 1
                name = f"{new.keyset.epoch:06d}-{suffix}"
            aside = f".{name}.new"
            archive.remove(aside)
            archive.remove(name)
            with archive.make(aside, mode=self._mode, gid=layout.gid) as fresh:
                for file, data in render(new, sealed=layout.sealed).items():
                    fresh.create(file, data, mode=layout.file_mode(file), gid=layout.gid if file == PEM else None)
                fresh.sync()
            self._keep_public(root, new)
            archive.move(aside, name)
        root.point(LIVE, f"{ARCHIVE}/{name}")
        return live.removeprefix(f"{ARCHIVE}/") if live else None

    def _keep_public(self, root: Directory, new: Held) -> None:
        with root.make("public", mode=self._mode, gid=self._layout.gid) as public:
            there = set(public.names())
            for key in new.keyset.signing_keys():
                if f"{key.kid}.jwk" not in there:
                    public.replace(f"{key.kid}.jwk", serialise(public_jwk(key)) + b"\n", mode=0o644)

    @staticmethod
    def _write_floor(root: Directory, new: Held, earlier: Floor | None) -> None:
        floor = raised_floor(earlier, keyset=new.keyset, digest=new.digest, token_id=new.token_id)
        root.replace(FLOOR, format_floor(floor), mode=0o600)

    def _finish(self, root: Directory, new: Held, *, now: int, keep: str | None, quarantine: bool) -> None:
        """Note what was seen, render the runtime PEM, drop what is neither live nor its predecessor `keep`."""
        seen = self._seen_due(root, new, now)
        if seen is not None:
            root.replace("seen.json", serialise(seen), mode=0o600)
        if self._layout.sealed:
            self._render_runtime(new)
        live = (root.pointed(LIVE) or "").removeprefix(f"{ARCHIVE}/")
        with root.make(ARCHIVE, mode=self._mode, gid=self._layout.gid) as archive:
            if quarantine and keep in archive.names():
                self._move_aside(root, archive, str(keep))
            for name in archive.names():
                if name not in (live, keep):
                    archive.remove(name)

    def _move_aside(self, root: Directory, archive: Directory, name: str) -> None:
        with root.make("quarantine", mode=self._mode, gid=self._layout.gid) as cell:
            cell.remove(name)
            archive.move(name, name, into=cell)
            self._trim(cell)

    @staticmethod
    def _trim(cell: Directory) -> None:
        for name in cell.oldest_first()[:-_QUARANTINED]:
            cell.remove(name)

    @staticmethod
    def _newest_other(root: Directory) -> str | None:
        live = (root.pointed(LIVE) or "").removeprefix(f"{ARCHIVE}/")
        with root.make(ARCHIVE, mode=0o750, gid=None) as archive:
            others = [name for name in archive.names() if name != live and not name.startswith(".")]
        return others[-1] if others else None

    def _live_is_sealed(self, root: Directory) -> bool:
        with root.make(ARCHIVE, mode=self._mode, gid=None) as archive:
            live = archive.sub((root.pointed(LIVE) or "").removeprefix(f"{ARCHIVE}/"), mode=self._mode)
            if live is None:
                return self._layout.sealed
            with live:
                return is_sealed(live)

    @staticmethod
    def _seen_due(root: Directory, held: Held, now: int) -> Seen | None:
        """Return what seen.json should say, or None where it says so already."""
        raw = root.read("seen.json", most=MOST) or b"{}"
        try:
            seen = parse_seen(raw)
        except MalformedError:
            seen = {}
        fresh = note_seen(seen, held.keyset, now)
        return None if raw == serialise(fresh) else fresh

    def _render_runtime(self, held: Held) -> None:
        runtime = Directory.make_root(self._runtime, mode=self._mode, gid=self._layout.gid, system=self._system)
        with runtime:
            pem = render_pem(held)
            if runtime.read(PEM, most=MOST, private=True, group=self._layout.gid is not None) != pem:
                runtime.replace(PEM, pem, mode=self._layout.file_mode(PEM), gid=self._layout.gid)
