"""Files that leave keydist: whole or not at all, never over what is no file, read with a bound."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keydist.adapters.public_file import read_bounded, remove, write_backup, write_private, write_public
from keydist.errors import ConfigError, DiskError, KeydistError, MalformedError

Writer = Callable[[str, bytes], object]
WRITERS = pytest.mark.parametrize("write", [write_public, write_private, write_backup])


def fails(code: int) -> Callable[..., NoReturn]:
    def fail(*_arguments: Any, **_named: Any) -> NoReturn:  # noqa: ANN401 - any system call's
        raise OSError(code, os.strerror(code))

    return fail


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_public_file_is_replaced_only_where_it_differs(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    assert write_public(str(file), b"one")
    assert (file.read_bytes(), mode(file)) == (b"one", 0o644)
    inode = file.stat().st_ino
    assert not write_public(str(file), b"one")
    assert file.stat().st_ino == inode
    for data in (b"two", b"longer", b""):
        assert write_public(str(file), data)
        assert file.read_bytes() == data
    assert list(tmp_path.iterdir()) == [file]


def test_whoever_reads_it_meanwhile_sees_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    write_public(str(file), b"old")
    with file.open("rb") as reading:
        write_public(str(file), b"new")
        assert reading.read() == b"old"


def test_a_relative_name_is_relative_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_public("jwks.json", b"data")
    write_backup("backup.jwe", b"data")
    assert {path.name for path in tmp_path.iterdir()} == {"jwks.json", "backup.jwe"}


def test_a_link_is_replaced_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    for name in ("target", "missing"):
        link = tmp_path / f"link-{name}"
        link.symlink_to(tmp_path / name)
        assert write_public(str(link), b"data")
        assert not link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("kind", ["directory", "fifo", "none"])
def test_what_is_no_file_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    # As /dev/null would; but no test goes near that one: as root it would be gone for the whole machine.
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    monkeypatch.chdir(tmp_path / "directory")
    path = "" if kind == "none" else str(tmp_path / kind)
    with pytest.raises(ConfigError, match="not a regular file"):
        write_public(path, b"data")
    assert (tmp_path / "fifo").is_fifo()
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["directory", "fifo"]


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "backup.jwe"
    write_backup(str(file), b"one")
    assert (file.read_bytes(), mode(file)) == (b"one", 0o400)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("backup.jwe", "link", "."):
        with pytest.raises(ConfigError, match="never overwritten"):
            write_backup(str(tmp_path / name), b"two")
    assert file.read_bytes() == b"one"
    assert not (tmp_path / "elsewhere").exists()


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        write_public(str(tmp_path / "public"), b"data")
        write_backup(str(tmp_path / "backup"), b"data")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "public"), mode(tmp_path / "backup")) == (0o644, 0o400)


@WRITERS
def test_no_directory_no_file(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(DiskError, match="No such file or directory"):
        write(str(tmp_path / "no" / "such"), b"data")


@WRITERS
@pytest.mark.parametrize("call", ["fsync", "fchmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, call: str, code: int
) -> None:
    monkeypatch.setattr(os, call, fails(code))
    with pytest.raises(DiskError, match=os.strerror(code)):
        write(str(tmp_path / "file"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jwks.json"
    write_public(str(file), b"old")
    monkeypatch.setattr(Path, "replace", fails(errno.EROFS))
    with pytest.raises(DiskError, match="Read-only"):
        write_public(str(file), b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_without_a_number_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_arguments: object) -> NoReturn:
        raise OSError("odd")

    monkeypatch.setattr(Path, "replace", odd)
    with pytest.raises(DiskError, match="OSError"):
        write_public(str(tmp_path / "file"), b"data")


@WRITERS
def test_file_and_directory_are_durable_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer
) -> None:
    synced = []
    fsync = os.fsync

    def watch(fd: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        synced.append((is_directory, [path.name for path in tmp_path.iterdir()] == ["file"]))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    write(str(tmp_path / "file"), b"data")
    assert synced == [(False, write is write_backup), (True, True)]


def test_reading_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_bounded(str(file), most=5) == b"12345"
    with pytest.raises(MalformedError, match="too large"):
        read_bounded(str(file), most=4)
    with pytest.raises(MalformedError, match="too large"):
        read_bounded("/dev/zero", most=4096)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read") as refused:
        read_bounded(str(tmp_path / name), most=10)
    assert isinstance(refused.value, KeydistError)
    assert refused.value.fix


# --- private files ------------------------------------------------------------------------------


def test_a_private_file_is_replaced_whole_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "jwt"
    file.write_bytes(b"of others")
    file.chmod(0o666)
    for data in (b"one", b"one", b"two"):
        inode = file.stat().st_ino
        with file.open("rb") as reading:
            before = reading.read()
            write_private(str(file), data)
            reading.seek(0)
            assert reading.read() == before
        assert (file.read_bytes(), mode(file)) == (data, 0o600)
        assert file.stat().st_ino != inode
    assert list(tmp_path.iterdir()) == [file]


def test_removing_is_durable_and_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jwt"
    synced: list[int] = []
    write_private(str(file), b"one")
    monkeypatch.setattr(os, "fsync", synced.append)
    for _ in range(2):
        remove(str(file))
        assert not file.exists()
    assert len(synced) == 2
    with pytest.raises(DiskError, match="cannot remove"):
        remove(str(tmp_path))
