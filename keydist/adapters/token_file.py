"""Where the bootstrap token comes from, and the checks on the file that holds it.

First hit wins: the flag, `KEYDIST_TOKEN_FILE`, the systemd credential `keydist.token`, the configuration. The file
is checked on its opened descriptor. A systemd credential is trusted by where it lives: its mode differs by release.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from keydist.core.token import MAX_FILE, BootstrapToken, format_token, parse_token_file
from keydist.errors import ConfigError, DiskError, TokenError, UnsafeFileError

CREDENTIAL: Final = "keydist.token"
STDIN: Final = "-"
_SOURCES: Final = (
    "--token-file, $KEYDIST_TOKEN_FILE, the systemd credential keydist.token, or token_file: in the configuration"
)


class TokenSource(NamedTuple):
    """A file with one or two tokens; `is_credential` where systemd put it there."""

    path: str
    is_credential: bool = False


def find_token_file(flag: str | None, environ: Mapping[str, str], configured: str | None) -> TokenSource:
    """Return the first source that is named. Raises `TokenError` where none is."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    credential = f"{directory}/{CREDENTIAL}" if directory else ""
    if credential and not os.path.exists(credential):  # noqa: PTH110 - pathlib costs 10 ms at start
        credential = ""
    path = flag or environ.get("KEYDIST_TOKEN_FILE") or credential or configured
    if not path:
        raise TokenError("no bootstrap token is named", expected=_SOURCES, fix="make one with: keydist token generate")
    lives_there = bool(directory) and os.path.dirname(path) == os.path.normpath(str(directory))  # noqa: PTH120 - as above
    return TokenSource(path, is_credential=path == credential or lives_there)


def read_tokens(source: TokenSource) -> tuple[BootstrapToken, ...]:
    """Return the one or two tokens of a file. Raises `TokenError`, `UnsafeFileError`."""
    if source.path == STDIN:
        return parse_token_file(sys.stdin.buffer.read(MAX_FILE + 1) if sys.stdin else b"")
    try:
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        _refuse(exc, source.path)
    try:
        _check(os.fstat(fd), source)
        data = os.read(fd, MAX_FILE + 1)
        if source.is_credential and not data.strip():
            _refuse_placeholder()
        return parse_token_file(data)
    except OSError as exc:
        _refuse(exc, source.path)
    finally:
        os.close(fd)


def _refuse(exc: OSError, path: str) -> NoReturn:
    if isinstance(exc, PermissionError):
        raise UnsafeFileError(
            f"the token file {path} may not be read by this user",
            expected=f"owner {os.geteuid()} or root",
            fix="run keydist as the file's owner, or give it the file as a systemd credential",
        ) from exc
    raise TokenError(
        f"the token file {path} cannot be read: {os.strerror(exc.errno or 0)}",
        expected="a file with one or two tokens",
        fix="copy the cluster's token there (mode 0400), or make one with: keydist token generate",
    ) from exc


def _refuse_placeholder() -> NoReturn:
    """Refuse what the shipped units give where they find no token: a node that has its keyset does without."""
    raise TokenError(
        "the unit was given an empty token",
        expected="the cluster's token where LoadCredential= of the unit takes it from: /etc/keydist/token, as shipped",
        found="nothing there when the unit started",
        fix="put it there, mode 0400; keydist.service is then started again by itself",
    )


def _check(found: os.stat_result, source: TokenSource) -> None:
    path, mode = source.path, stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(
            f"the token file {path} is not a regular file",
            expected="a regular file",
            found=stat.filemode(found.st_mode),
            fix="name a regular file",
        )
    if source.is_credential:
        return
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeFileError(
            f"the token file {path} belongs to another user",
            expected=f"owner root or {os.geteuid()}",
            found=f"owner {found.st_uid}",
            fix=f"if nobody else could read it: chown {os.geteuid()} {path}; else replace the token",
        )
    if mode & 0o077:
        raise UnsafeFileError(
            f"the token file {path} can be read or changed by others",
            expected="mode 0400 or 0600",
            found=f"mode {mode:04o}",
            fix=f"if nobody else could read it: chmod 0400 {path}; else replace the token",
        )


def write_token(path: str, text: str) -> None:
    """Write a new token file, mode 0400, never over an existing one. Raises `ConfigError`, `DiskError`."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    except FileExistsError as exc:
        raise ConfigError(
            f"{path} exists, and a token is never overwritten",
            expected="no file of that name",
            fix="look at it with: keydist token inspect; or name another file with --out",
        ) from exc
    except OSError as exc:
        raise DiskError(
            f"cannot create {path}: {os.strerror(exc.errno or 0)}", fix="name a writable place with --out"
        ) from exc
    try:
        try:
            os.fchmod(fd, 0o400)
            _write_whole(fd, text)
        finally:
            os.close(fd)
        _sync_directory(path)
    except OSError as exc:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - as above
        raise DiskError(
            f"cannot write {path}: {os.strerror(exc.errno or 0)}", fix="free some space, then try again"
        ) from exc


def left_without(source: TokenSource, token_id: str) -> BootstrapToken:
    """Return the token that stays where a file of two loses one, and change nothing.

    Raises `TokenError` where the file does not hold it beside another, `UnsafeFileError`, `ConfigError` for a systemd
    credential.
    """
    path = source.path
    if source.is_credential or path == STDIN:
        raise ConfigError(
            "the token of this node is not a file of its own: its line is taken out where it comes from",
            expected="a token file",
            found="a systemd credential" if source.is_credential else "standard input",
            fix=f"take token {token_id} out of the credential's source (LoadCredential=), then: systemctl restart"
            " keydist; or name that source: --token-file FILE",
        )
    tokens = read_tokens(source)
    left = [token for token in tokens if token.token_id != token_id]
    if len(left) != 1 or len(tokens) == 1:
        raise TokenError(
            f"{path} does not hold token {token_id} beside another",
            expected="two lines, one of them to go",
            found=", ".join(token.token_id for token in tokens),
            fix="see its ids with: keydist token inspect",
        )
    return left[0]


def drop_token(source: TokenSource, token_id: str) -> None:
    """Take one of two tokens out of a file, which keeps its owner and mode; a stop in between leaves it as it was.

    A link stays one: the file that it leads to is replaced. Raises as `left_without`, and `DiskError`.
    """
    text = format_token(left_without(source, token_id))
    path = os.path.realpath(source.path)
    directory, name = os.path.split(path)
    fresh = f"{directory}/.{name}.retire"
    try:
        found = os.stat(path)  # noqa: PTH116 - as above
        with suppress(FileNotFoundError):
            os.unlink(fresh)  # noqa: PTH108 - as above; a stop left it
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        try:
            if (found.st_uid, found.st_gid) != (os.fstat(fd).st_uid, os.fstat(fd).st_gid):
                os.fchown(fd, found.st_uid, found.st_gid)
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            _write_whole(fd, text)
        finally:
            os.close(fd)
        os.replace(fresh, path)  # noqa: PTH105 - as above
        _sync_directory(path)
    except OSError as exc:
        with suppress(OSError):
            os.unlink(fresh)  # noqa: PTH108 - as above; it holds a secret
        raise DiskError(
            f"cannot replace {path}: {os.strerror(exc.errno or 0)}",
            expected="a directory that this user may write, with space left",
            fix=f"free some space; where only root may write: sed -i '/^kdt1_{token_id}_/d' {path}",
        ) from exc


def _write_whole(fd: int, text: str) -> None:
    """Write a line to a new file, durably."""
    rest = f"{text}\n".encode("ascii")
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.fsync(fd)


def _sync_directory(path: str) -> None:
    """Make the entry of a new file durable, where this user may open its directory."""
    try:
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120 - as above
    except PermissionError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
