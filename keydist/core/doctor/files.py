"""Files and directories of a node: whose they are, who else may use them, where they lie, how much room is left.

Owners are compared with the owner of the state directory, which is the user that runs keydist; whoever asks may be
root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.doctor.verdict import Verdict, failed, fine, together, unseen, warning
from keydist.errors import DiskFullError, ReadOnlyDiskError, UnsafeFileError, WrongUserError

if TYPE_CHECKING:
    from collections.abc import Iterable

_OTHERS: Final = 0o077
_ALL_BUT_GROUP_READS: Final = 0o037
_OTHERS_WRITE: Final = 0o022
_GROUP_ENTERS: Final = 0o050
_GROUP_READS: Final = 0o040
_ALL_READ: Final = 0o044
_PUBLIC: Final = (".jwk", ".revoked", "jwks.json")
_LEAST_BYTES: Final = 4 << 20
_FEW_BYTES: Final = 64 << 20
_LEAST_FILES: Final = 64
_FEW_FILES: Final = 1024
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
PEM: Final = "signing-key.pem"


class File(NamedTuple):
    """One entry of the file system; `kind` is file, directory, link or other, `mode` has the permission bits."""

    path: str
    kind: str
    uid: int
    gid: int
    mode: int

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self.path.rpartition("/")[2]


def config_file(found: File | None, *, path: str, reader: int) -> Verdict:
    """Judge the configuration file: only root or `reader`, who runs keydist, may change it, and both can read it."""
    if found is None:
        return fine(f"no file at {path}: everything comes from the environment")
    if found.uid not in (0, reader):
        return _of_another(found, path, reader=reader, fix=f"read it through, then: chown root {path}")
    if found.mode & _OTHERS_WRITE:
        return failed(
            UnsafeFileError,
            f"{path} can be changed by others, who could name another store and other hooks",
            expected=f"mode {found.mode & ~_OTHERS_WRITE:04o}",
            found=f"mode {found.mode:04o}",
            fix=f"read it through, then: chmod {found.mode & ~_OTHERS_WRITE:04o} {path}",
        )
    return _unreadable(found, path, reader=reader, others=_ALL_READ) or fine(f"{path}, mode {found.mode:04o}")


def _unreadable(found: File, path: str, *, reader: int, others: int) -> Verdict | None:
    """Return the failure where only root can read a file that keydist needs; `others` are bits that may let it."""
    if reader in (0, found.uid) or found.mode & others:
        return None
    return failed(
        UnsafeFileError,
        f"{path} cannot be read by user {reader}, who runs keydist",
        found=f"owner {found.uid}, mode {found.mode:04o}",
        fix=f"chown {reader} {path}",
    )


def state(root: File | None, entries: Iterable[File], *, path: str, me: int, group: int | None) -> Verdict:
    """Judge the state directory and all that is in it. `me` is who asks; `group` the number of `group:`."""
    if root is None:
        return fine(f"{path} is not there yet: the first bootstrap makes it")
    if root.kind != "directory":
        return failed(UnsafeFileError, f"{path} is not a directory", found=root.kind, fix=f"look at it: ls -ld {path}")
    if me not in (0, root.uid):
        return unseen(
            f"{path} belongs to user {root.uid}, and this is user {me}", "run keydist doctor as that user, or as root"
        )
    several = tuple(entries)
    wrong = [one for entry in (root, *several) if (one := _entry(entry, owner=root.uid, group=group)) is not None]
    if wrong:
        return together(wrong)
    return fine(f"{path}, owner {root.uid}, mode {root.mode:04o}, {len(several)} entries, none open to others")


def _entry(found: File, *, owner: int, group: int | None) -> Verdict | None:
    """Return what is wrong with an entry of the state directory, or None."""
    if found.uid != owner:
        return failed(
            WrongUserError,
            f"{found.path} belongs to another user than the state directory",
            expected=f"owner {owner}",
            found=f"owner {found.uid}",
            fix=f"see who changed it, then: chown -h {owner} {found.path}",
        )
    if found.kind == "link":
        return None
    forbidden = _forbidden(found, shared=group is not None)
    if found.mode & forbidden:
        return failed(
            UnsafeFileError,
            f"{found.path} can be used by others",
            expected=f"mode {found.mode & ~forbidden:04o}",
            found=f"mode {found.mode:04o}",
            fix=f"find out who could read it, then: chmod {found.mode & ~forbidden:04o} {found.path}",
        )
    if found.name == PEM and group is not None and found.mode & _GROUP_READS and found.gid != group:
        return failed(
            UnsafeFileError,
            f"{found.path} belongs to another group than group: names",
            expected=f"group {group}",
            found=f"group {found.gid}",
            fix="keydist bootstrap sets it right",
        )
    return None


def _forbidden(found: File, *, shared: bool) -> int:
    if found.kind == "directory":
        return _OTHERS & ~(_GROUP_ENTERS if shared else 0)
    if found.name.endswith(_PUBLIC):
        return _OTHERS_WRITE
    return _OTHERS & ~(_GROUP_READS if shared and found.name == PEM else 0)


def runtime(root: File | None, pem: File | None, *, path: str, sealed: bool, filesystem: str, me: int) -> Verdict:
    """Judge the runtime directory; `filesystem` is the kind of what it is on, or would be, empty where not known."""
    if sealed and filesystem and filesystem not in _IN_MEMORY:
        return failed(
            UnsafeFileError,
            f"at_rest: sealed keeps the key off the disk, but {path} is on one",
            expected="tmpfs",
            found=filesystem,
            fix="name a runtime_dir below /run",
        )
    on = f"on {filesystem or 'an unknown file system'}"
    if root is None:
        return fine(f"{path} is not there yet, {on}")
    if me not in (0, root.uid):
        return unseen(f"{path} belongs to user {root.uid}, and this is user {me}", "run it as that user, or as root")
    wrong = _open_to_others(root, path) or (pem and _entry(pem, owner=root.uid, group=pem.gid))
    return wrong or fine(f"{path}, owner {root.uid}, mode {root.mode:04o}, {on}")


def _open_to_others(root: File, path: str) -> Verdict | None:
    if root.kind != "directory":
        return failed(UnsafeFileError, f"{path} is not a directory", found=root.kind, fix=f"look at it: ls -ld {path}")
    if root.mode & _OTHERS_WRITE:
        return failed(
            UnsafeFileError,
            f"{path} can be changed by others",
            expected=f"mode {root.mode & ~_OTHERS_WRITE:04o}",
            found=f"mode {root.mode:04o}",
            fix=f"chmod {root.mode & ~_OTHERS_WRITE:04o} {path}",
        )
    return None


def space(*, path: str, free: int, files: int | None, read_only: bool) -> Verdict:
    """Judge the room that is left for the state directory: bytes, and files (None: the file system has no limit)."""
    if read_only:
        return failed(
            ReadOnlyDiskError,
            f"{path} is on a file system that is mounted read-only",
            fix="mount it for writing; until then this node takes nothing new",
        )
    left = f"{free >> 20} MiB" + ("" if files is None else f" and {files} files") + f" free for {path}"
    if free < _LEAST_BYTES or (files is not None and files < _LEAST_FILES):
        return failed(
            DiskFullError,
            f"no room for another keyset: {left}",
            expected=f"{_LEAST_BYTES >> 20} MiB and {_LEAST_FILES} files",
            fix="free some space: until then this node keeps what it has and takes nothing new",
        )
    if free < _FEW_BYTES or (files is not None and files < _FEW_FILES):
        return warning(left, "free some space: the audit trail and new keysets need it")
    return fine(left)


def secret_file(found: File | None, *, path: str, setting: str, reader: int) -> Verdict | None:
    """Return what is wrong with a file that holds a secret of NATS, or None; that it is missing is told elsewhere.

    `reader` is who runs keydist. A group may read it, as root:keydist 0640 has it.
    """
    if found is None:
        return None
    if found.uid not in (0, reader):
        fix = f"replace the credentials if that user should not have had them, then: chown {reader} {path}"
        return _of_another(found, f"{setting}: {path}", reader=reader, fix=fix)
    if found.mode & _ALL_BUT_GROUP_READS:
        return failed(
            UnsafeFileError,
            f"{setting}: {path} can be used by others",
            expected=f"mode {found.mode & ~_ALL_BUT_GROUP_READS:04o}",
            found=f"mode {found.mode:04o}",
            fix=f"if nobody else could read it: chmod {found.mode & ~_ALL_BUT_GROUP_READS:04o} {path}; else replace it",
        )
    return _unreadable(found, path, reader=reader, others=_GROUP_READS)


def _of_another(found: File, what: str, *, reader: int, fix: str) -> Verdict:
    return failed(
        UnsafeFileError,
        f"{what} belongs to a user who does not run keydist",
        expected=f"owner 0 or {reader}",
        found=f"owner {found.uid}",
        fix=fix,
    )
