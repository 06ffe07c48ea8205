"""The systemd files that come with keydist: where each belongs, and whether the one that is there may be replaced.

They stand once, in the repository's `systemd/`; a link brings them into the package. What is installed ends with a
line that holds the digest of what is before it, so that a later release knows its own files from those that a person
changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from keydist.adapters.public_file import write_backup, write_public
from keydist.errors import ConfigError, DiskError, UsageError, WrongUserError

SHIPPED_EXECUTABLE: Final = "/usr/bin/keydist"
"""What the files start, as they are shipped."""
SAVED: Final = ".saved"
"""What is added to the name of a person's file that is replaced; nothing reads such a name."""

_UNITS: Final = "etc/systemd/system"
_CONF: Final = {".sysusers": "etc/sysusers.d", ".tmpfiles": "etc/tmpfiles.d"}
_SUFFIXES: Final = (".service", ".path", ".target", *_CONF)
_EXEC: Final = re.compile(rf"^(Exec[A-Za-z]+=){re.escape(SHIPPED_EXECUTABLE)}(?= )", re.MULTILINE)
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.+-]+)+", re.ASCII)
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - as ProtectHome=, PrivateTmp= have it
_OURS: Final = re.compile(
    rb"# Installed by keydist install; changes belong in a drop-in\. sha256 ([0-9a-f]{64})\n\Z", re.ASCII
)


class Whose(Enum):
    """Whose a file is that stands where one is to be installed."""

    NOBODYS = "create"
    THE_SAME = "keep"
    OURS = "update"
    A_PERSONS = "replace"
    MASKED = "leave"


class UnitFile(NamedTuple):
    """A file to install: its whole path, its content, and what is there now."""

    path: str
    content: bytes
    whose: Whose

    @property
    def is_written(self) -> bool:
        """Whether installing changes it: neither one that is the same already, nor one that a person masked."""
        return self.whose not in (Whose.THE_SAME, Whose.MASKED)


def own_executable() -> str:
    """Return the path of the keydist that runs. Raises `UsageError` where it is not an installed one."""
    for path in (Path(sys.argv[0]), Path(sys.prefix) / "bin/keydist"):
        if path.name == "keydist" and path.is_file():
            return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow the link of /usr/bin
    raise UsageError(
        "this keydist was not started by its own name, so units would not know what to start",
        fix="name it: keydist install --systemd --executable /opt/keydist/bin/keydist",
    )


def check_executable(path: str, *, is_own: bool, root: str) -> None:
    """Refuse what confined units cannot start. Raises `UsageError` for its shape, else `ConfigError`."""
    if not _PLAIN_PATH.fullmatch(path) or os.path.normpath(path) != path:
        raise UsageError(
            "the executable cannot be named in a unit",
            expected="an absolute path of letters, digits and ._+-, without . or .. in between",
            found=ascii(path[:128]),
            fix="install keydist elsewhere, for example in /opt/keydist",
        )
    interpreter = os.path.realpath(sys.executable) if is_own else path
    for needed in (path, interpreter):
        if any(needed.startswith(f"{place}/") for place in _HIDDEN):
            raise ConfigError(
                f"units are confined and do not see {needed}",
                expected=f"a place outside {', '.join(_HIDDEN)}",
                fix="install keydist there: /usr/bin/python3 -m venv /opt/keydist; or name another: --executable PATH",
            )
    if root == "/" and not os.access(path, os.X_OK):
        raise ConfigError(f"{path} cannot be started", expected="an executable file", fix="name it: --executable PATH")


def shipped() -> dict[str, str]:
    """Return the files that come with keydist, by name."""
    folder = files("keydist.adapters") / "unit_files"
    found = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(_SUFFIXES)}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def plan(root: str, executable: str) -> tuple[UnitFile, ...]:
    """Return what is to be installed below `root`. Raises `ConfigError` for places that lead out of it, `DiskError`."""
    return tuple(_planned(root, name, text, executable) for name, text in shipped().items())


def install(unit: UnitFile) -> None:
    """Put a file in its place, whole, and keep a person's beside it. Raises `ConfigError`, `DiskError`."""
    path = Path(unit.path)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if unit.whose is Whose.A_PERSONS:
            write_backup(f"{path}{SAVED}", path.read_bytes())
    except OSError as exc:
        raise DiskError(f"cannot write {path}: {os.strerror(exc.errno or 0)}", fix="look at its directory") from exc
    write_public(unit.path, unit.content)


def check_writable(planned: tuple[UnitFile, ...]) -> None:
    """Refuse before anything is written where this user may not. Raises `WrongUserError`."""
    for unit in planned:
        directory = Path(unit.path).parent
        while not directory.exists():
            directory = directory.parent
        if unit.is_written and not os.access(directory, os.W_OK | os.X_OK):
            raise WrongUserError(
                f"this user may not write into {directory}",
                expected="root, or a tree of this user's own",
                found=f"user {os.geteuid()}",
                fix="sudo keydist install --systemd; or into an image's tree: --root DIR",
            )


def _planned(root: str, name: str, text: str, executable: str) -> UnitFile:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    place = f"{_CONF[suffix]}/{stem}.conf" if suffix in _CONF else f"{_UNITS}/{name}"
    path = Path(root) / place
    real, top = os.path.realpath(path.parent), os.path.realpath(root)
    if os.path.commonpath((real, top)) != top:
        raise ConfigError(
            f"{path.parent} leads out of {root}", expected=f"a place below {top}", found=real, fix="look at its links"
        )
    content = _EXEC.sub(lambda found: found[1] + executable, text).encode()
    content += f"# Installed by keydist install; changes belong in a drop-in. sha256 {_digest(content)}\n".encode()
    return UnitFile(str(path), content, _whose(path, content))


def _whose(path: Path, content: bytes) -> Whose:
    try:
        found = path.lstat()
        target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""  # noqa: PTH115 - the text of the link
        if target == os.devnull:
            return Whose.MASKED
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(
                f"{path} is not a regular file, and is not replaced by one",
                found=f"a link to {target}" if target else "",
                fix="look at it, then remove it",
            )
        there = path.read_bytes()
    except FileNotFoundError:
        return Whose.NOBODYS
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {os.strerror(exc.errno or 0)}", fix="look at its directory") from exc
    if there == content:
        return Whose.THE_SAME
    mark = _OURS.search(there)
    return Whose.OURS if mark and mark[1].decode() == _digest(there[: mark.start()]) else Whose.A_PERSONS


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
