"""Where the bootstrap token comes from, what its file must be like, and how a new one is written."""

from __future__ import annotations

import errno
import io
import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keydist.adapters.token_file import (
    TokenSource,
    drop_token,
    find_token_file,
    left_without,
    read_tokens,
    write_token,
)
from keydist.core.token import MAX_FILE, BootstrapToken, format_token
from keydist.errors import ConfigError, DiskError, KeydistError, TokenError, UnsafeFileError
from tests.crash.state import as_text
from tests.material import OTHER_TOKEN, TOKEN

ONE_LINE = f"{format_token(TOKEN)}\n".encode()
TWO_LINES = ONE_LINE + format_token(OTHER_TOKEN).encode()
SECRET = format_token(TOKEN).split("_")[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_bytes(ONE_LINE)
    return path


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """The directory that systemd makes for the credentials of a unit."""
    path = tmp_path / "credentials"
    path.mkdir()
    path.joinpath("keydist.token").write_bytes(ONE_LINE)
    return path


def assert_no_secret(error: object) -> None:
    assert isinstance(error, KeydistError)
    assert SECRET not in as_text(error)
    assert repr(TOKEN.secret) not in as_text(error)


# --- where it comes from ------------------------------------------------------------------------


def test_the_first_source_that_is_named_is_taken(credentials: Path) -> None:
    environ = {"KEYDIST_TOKEN_FILE": "/from/environment", "CREDENTIALS_DIRECTORY": str(credentials)}
    credential = TokenSource(f"{credentials}/keydist.token", is_credential=True)
    assert find_token_file("/from/flag", environ, "/from/configuration") == TokenSource("/from/flag")
    assert find_token_file(None, environ, "/from/configuration") == TokenSource("/from/environment")
    del environ["KEYDIST_TOKEN_FILE"]
    assert find_token_file(None, environ, "/from/configuration") == credential
    del environ["CREDENTIALS_DIRECTORY"]
    assert find_token_file(None, environ, "/from/configuration") == TokenSource("/from/configuration")


def test_a_unit_without_that_credential_goes_on_to_the_configuration(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_token_file(None, environ, "/from/configuration") == TokenSource("/from/configuration")


def test_an_empty_name_is_none() -> None:
    environ = {"KEYDIST_TOKEN_FILE": "", "CREDENTIALS_DIRECTORY": ""}
    assert find_token_file("", environ, "/from/configuration") == TokenSource("/from/configuration")


def test_where_nothing_is_named_every_source_is_told() -> None:
    with pytest.raises(TokenError) as caught:
        find_token_file(None, {}, None)
    for source in ("--token-file", "KEYDIST_TOKEN_FILE", "keydist.token", "token_file:"):
        assert source in caught.value.expected
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("source", ["flag", "environment", "configuration"])
def test_a_file_is_a_credential_by_where_it_lives_however_it_is_named(credentials: Path, source: str) -> None:
    path = f"{credentials}/another-name"
    environ = {"CREDENTIALS_DIRECTORY": f"{credentials}/"}
    if source == "environment":
        environ["KEYDIST_TOKEN_FILE"] = path
    credentials.joinpath("keydist.token").unlink()
    found = find_token_file(path if source == "flag" else None, environ, path if source == "configuration" else None)
    assert found == TokenSource(path, is_credential=True)


# --- what is in it ------------------------------------------------------------------------------


def test_a_file_holds_one_token_or_two(file: Path) -> None:
    assert read_tokens(TokenSource(str(file))) == (TOKEN,)
    file.write_bytes(TWO_LINES)
    assert read_tokens(TokenSource(str(file))) == (TOKEN, OTHER_TOKEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (ONE_LINE * 3, "too many lines"),
        (ONE_LINE * 2, "one token id"),
        (b"x" * (MAX_FILE + 1), "too large"),
        (b"\xff" + ONE_LINE, "not ASCII"),
        (ONE_LINE[:-2], "wrong length"),
        (ONE_LINE.replace(b"kdt1", b"kdt2"), "not a keydist token"),
    ],
)
def test_a_file_with_anything_else_is_refused(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(TokenError, match=message) as caught:
        read_tokens(TokenSource(str(file)))
    assert_no_secret(caught.value)


def test_standard_input_is_read_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TWO_LINES)))
    assert read_tokens(TokenSource("-")) == (TOKEN, OTHER_TOKEN)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 10 * MAX_FILE)))
    with pytest.raises(TokenError, match="too large"):
        read_tokens(TokenSource("-"))


# --- whose it is --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_file_of_its_owner_alone_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_tokens(TokenSource(str(file))) == (TOKEN,)


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001], ids="{:03o}".format)
def test_a_file_that_others_may_use_is_refused(file: Path, bit: int) -> None:
    file.chmod(0o600 | bit)
    with pytest.raises(UnsafeFileError) as caught:
        read_tokens(TokenSource(str(file)))
    assert caught.value.exit_code == 77
    assert caught.value.found == f"mode {0o600 | bit:04o}"
    assert str(file) in caught.value.fix
    assert_no_secret(caught.value)


class Machine:
    """The system calls on a token file, of which some answer otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def set(self, name: str, call: Callable[..., Any]) -> None:
        self._monkeypatch.setattr(f"keydist.adapters.token_file.os.{name}", call)

    def undo(self) -> None:
        self._monkeypatch.undo()

    def stat(self, **members: int) -> None:
        real = os.fstat
        names = {"uid": stat.ST_UID, "mode": stat.ST_MODE}

        def fstat(fd: int) -> os.stat_result:
            found = list(real(fd))
            for name, value in members.items():
                found[names[name]] = value
            return os.stat_result(found)

        self.set("fstat", fstat)

    def fail(self, name: str, number: int) -> None:
        def call(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        self.set(name, call)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Patched inside the test only: pytest itself needs these calls."""
    with pytest.MonkeyPatch.context() as patch:
        yield Machine(patch)


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returns, or the error that it raises."""
    try:
        return call()
    except KeydistError as exc:
        return exc


@pytest.mark.parametrize(
    ("owner", "is_read"),
    [(0, True), (os.geteuid(), True), (os.geteuid() + 4711, False)],
    ids=["root", "this user", "another user"],
)
def test_a_file_belongs_to_root_or_to_this_user(file: Path, machine: Machine, owner: int, *, is_read: bool) -> None:
    machine.stat(uid=owner)
    found = outcome(lambda: read_tokens(TokenSource(str(file))))
    if is_read:
        assert found == (TOKEN,)
    else:
        assert isinstance(found, UnsafeFileError)
        assert "belongs to another user" in found.message
        assert found.found == f"owner {owner}"


def test_a_credential_is_trusted_by_where_it_lives(credentials: Path, machine: Machine) -> None:
    machine.stat(uid=os.geteuid() + 4711, mode=stat.S_IFREG | 0o444)
    path = f"{credentials}/keydist.token"
    assert read_tokens(TokenSource(path, is_credential=True)) == (TOKEN,)
    assert isinstance(outcome(lambda: read_tokens(TokenSource(path))), UnsafeFileError)


@pytest.mark.parametrize("is_credential", [False, True])
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str, *, is_credential: bool) -> None:
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(mode=0o700)
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        read_tokens(TokenSource(str(path), is_credential=is_credential))


def test_a_link_is_followed_to_the_file_that_is_checked(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_tokens(TokenSource(str(link))) == (TOKEN,)
    file.chmod(0o644)
    with pytest.raises(UnsafeFileError):
        read_tokens(TokenSource(str(link)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="No such file") as caught:
        read_tokens(TokenSource(f"{tmp_path}/no-such"))
    assert f"{tmp_path}/no-such" in caught.value.message
    assert "keydist token generate" in caught.value.fix


@pytest.mark.parametrize("name", ["open", "read"])
@pytest.mark.parametrize(
    ("number", "error"), [(errno.EIO, TokenError), (errno.EACCES, UnsafeFileError), (errno.EPERM, UnsafeFileError)]
)
def test_a_file_that_cannot_be_read(
    file: Path, machine: Machine, name: str, number: int, error: type[KeydistError]
) -> None:
    machine.fail(name, number)
    found = outcome(lambda: read_tokens(TokenSource(str(file))))
    assert type(found) is error
    assert_no_secret(found)


# --- writing one --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777], ids="umask {:03o}".format)
def test_a_new_file_is_for_its_owner_to_read(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "new"
    before = os.umask(mask)
    try:
        write_token(str(path), format_token(TOKEN))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.read_bytes() == ONE_LINE
    assert read_tokens(TokenSource(str(path))) == (TOKEN,)


def test_a_file_may_be_named_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_token("new", format_token(TOKEN))
    assert read_tokens(TokenSource("new")) == (TOKEN,)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def existing(path: Path) -> None:
    path.write_bytes(b"the only copy")


@pytest.mark.parametrize("there", [existing, dangling])
def test_a_token_is_never_overwritten(tmp_path: Path, there: Callable[[Path], None]) -> None:
    path = tmp_path / "new"
    there(path)
    with pytest.raises(ConfigError, match="never overwritten") as caught:
        write_token(str(path), format_token(TOKEN))
    assert path.is_symlink() or path.read_bytes() == b"the only copy"
    assert_no_secret(caught.value)


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No such file") as caught:
        write_token(f"{tmp_path}/no/such", format_token(TOKEN))
    assert caught.value.exit_code == 73


@pytest.mark.parametrize("name", ["fchmod", "write", "fsync"])
def test_a_file_that_cannot_be_written_whole_does_not_stay(tmp_path: Path, machine: Machine, name: str) -> None:
    path = tmp_path / "new"
    machine.fail(name, errno.ENOSPC)
    found = outcome(lambda: write_token(str(path), format_token(TOKEN)))
    assert isinstance(found, DiskError)
    assert "No space left" in found.message
    assert not path.exists()
    assert_no_secret(found)


def test_a_file_that_cannot_be_removed_either_is_told_by_its_first_reason(tmp_path: Path, machine: Machine) -> None:
    machine.fail("write", errno.ENOSPC)
    machine.fail("unlink", errno.EROFS)
    found = outcome(lambda: write_token(f"{tmp_path}/new", format_token(TOKEN)))
    assert isinstance(found, DiskError)
    assert "No space left" in found.message


def test_a_write_that_is_cut_short_is_continued(tmp_path: Path, machine: Machine) -> None:
    real = os.write
    machine.set("write", lambda fd, data: real(fd, data[:7]))
    write_token(f"{tmp_path}/new", format_token(TOKEN))
    assert tmp_path.joinpath("new").read_bytes() == ONE_LINE


def test_the_file_and_its_directory_are_durable_before_it_counts(tmp_path: Path, machine: Machine) -> None:
    synced: list[Path] = []
    machine.set("fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    write_token(f"{tmp_path}/new", format_token(TOKEN))
    assert synced == [tmp_path / "new", tmp_path]


def test_a_directory_that_may_not_be_read_is_not_needed(tmp_path: Path, machine: Machine) -> None:
    real = os.open

    def closed(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "denied")
        return real(path, flags, mode)

    machine.set("open", closed)
    write_token(f"{tmp_path}/new", format_token(TOKEN))
    assert tmp_path.joinpath("new").read_bytes() == ONE_LINE


# --- taking one of two out of it ----------------------------------------------------------------


@pytest.fixture
def two(file: Path) -> Path:
    file.write_bytes(TWO_LINES)
    return file


def dropped(path: Path, token_id: str = TOKEN.token_id) -> object:
    return outcome(lambda: drop_token(TokenSource(str(path)), token_id))


@pytest.mark.parametrize(("gone", "stays"), [(TOKEN, OTHER_TOKEN), (OTHER_TOKEN, TOKEN)], ids=["first", "second"])
@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_one_of_two_tokens_goes_and_the_file_keeps_its_mode(
    two: Path, gone: BootstrapToken, stays: BootstrapToken, mode: int
) -> None:
    two.chmod(mode)
    before = two.stat()
    assert left_without(TokenSource(str(two)), gone.token_id) == stays
    assert read_tokens(TokenSource(str(two))) == (TOKEN, OTHER_TOKEN)
    assert dropped(two, gone.token_id) is None
    assert two.read_text() == f"{format_token(stays)}\n"
    after = two.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [path.name for path in two.parent.iterdir()] == [two.name]


def test_a_file_of_another_owner_keeps_it(two: Path, machine: Machine) -> None:
    real, changed = os.stat, []

    def stat_of(path: str) -> os.stat_result:
        found = list(real(path))
        found[stat.ST_UID] = found[stat.ST_GID] = 4711
        return os.stat_result(found)

    machine.set("stat", stat_of)
    machine.set("fchown", lambda _fd, uid, gid: changed.append((uid, gid)))
    assert dropped(two) is None
    assert changed == [(4711, 4711)]


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(two: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "link"
    link.symlink_to(two)
    assert dropped(link) is None
    assert link.is_symlink()
    assert read_tokens(TokenSource(str(two))) == (OTHER_TOKEN,)


def test_a_file_without_a_directory_in_its_name_loses_one_too(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two.parent)
    assert dropped(Path(two.name)) is None
    assert read_tokens(TokenSource(str(two))) == (OTHER_TOKEN,)


@pytest.mark.parametrize(
    ("content", "token_id"), [(ONE_LINE, TOKEN.token_id), (ONE_LINE, "f" * 10), (TWO_LINES, "f" * 10)]
)
def test_the_only_token_stays_and_what_is_not_there_is_not_dropped(file: Path, content: bytes, token_id: str) -> None:
    file.write_bytes(content)
    found = dropped(file, token_id)
    assert isinstance(found, TokenError)
    assert "token inspect" in found.fix
    assert_no_secret(found)
    assert file.read_bytes() == content


def test_a_credential_and_standard_input_are_not_ours_to_change(credentials: Path) -> None:
    path = credentials / "keydist.token"
    path.write_bytes(TWO_LINES)
    for source in (TokenSource(str(path), is_credential=True), TokenSource("-")):
        with pytest.raises(ConfigError) as caught:
            drop_token(source, TOKEN.token_id)
        assert "systemctl restart keydist" in caught.value.fix
        assert f"token {TOKEN.token_id}" in caught.value.fix
    assert path.read_bytes() == TWO_LINES


def test_a_file_that_others_may_read_is_refused_first(two: Path) -> None:
    two.chmod(0o644)
    assert isinstance(dropped(two), UnsafeFileError)
    assert two.read_bytes() == TWO_LINES


STEPS = ["stat", "open", "fchmod", "write", "fsync", "replace"]


@pytest.mark.parametrize("name", STEPS)
def test_what_fails_leaves_the_file_as_it_was_and_no_other(two: Path, machine: Machine, name: str) -> None:
    real = {step: getattr(os, step) for step in STEPS}

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - those of a system call
        if name == "open" and not str(arguments[0]).endswith(".retire"):
            return real["open"](*arguments, **named)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine.set(name, call)
    found = dropped(two)
    assert isinstance(found, DiskError)
    assert_no_secret(found)
    assert two.read_bytes() == TWO_LINES
    assert [path.name for path in two.parent.iterdir()] == [two.name]
    _, _, command = found.fix.partition("where only root may write: ")
    machine.undo()
    subprocess.run(shlex.split(command), check=True)
    assert read_tokens(TokenSource(str(two))) == (OTHER_TOKEN,)


class Stop(BaseException):
    """The machine stops here."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", [*STEPS, "unlink", "close"])
def test_a_stop_leaves_the_old_file_or_the_new_one_and_what_is_left_stops_nothing(
    two: Path, name: str, *, after: bool
) -> None:
    two.with_name(".token.retire").write_bytes(b"what an earlier stop left")
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - those of a system call
            if after:
                real(*arguments, **named)
            raise Stop

        machine.set(name, call)
        with pytest.raises(Stop):
            drop_token(TokenSource(str(two)), TOKEN.token_id)
    assert read_tokens(TokenSource(str(two))) in ((TOKEN, OTHER_TOKEN), (OTHER_TOKEN,))
    if read_tokens(TokenSource(str(two))) == (TOKEN, OTHER_TOKEN):
        assert dropped(two) is None
    assert read_tokens(TokenSource(str(two))) == (OTHER_TOKEN,)


def test_a_new_token_beside_it_is_left_alone(two: Path) -> None:
    beside = two.with_name("token.new")
    beside.write_bytes(b"another file")
    assert dropped(two) is None
    assert beside.read_bytes() == b"another file"
