"""Which machine this is: the same hash each time, from the first id there is, and never the id itself."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

import pytest

from keydist.adapters import machine_id
from keydist.adapters.machine_id import machine_hash

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places where a machine's id stands, in a folder of the test's."""
    found = [tmp_path / "machine-id", tmp_path / "dbus-machine-id"]
    monkeypatch.setattr(machine_id, "_FILES", tuple(map(str, found)))
    return found


def hashed(text: bytes) -> str:
    return hashlib.sha256(b"keydist machine\0" + text).hexdigest()[:32]


def test_the_id_is_told_by_a_hash_only(files: list[Path]) -> None:
    files[0].write_text(f"{ID}\n", encoding="ascii")
    assert machine_hash() == hashed(ID.encode())
    assert re.fullmatch("[0-9a-f]{32}", machine_hash())
    assert ID not in machine_hash()


@pytest.mark.parametrize("first", [None, "", " \n"], ids=["none", "an empty one", "a blank one"])
def test_where_the_first_file_has_no_id_the_second_counts(files: list[Path], first: str | None) -> None:
    if first is not None:
        files[0].write_text(first, encoding="ascii")
    files[1].write_text(ID, encoding="ascii")
    assert machine_hash() == hashed(ID.encode())


def test_where_there_is_no_id_the_name_of_the_host_counts(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files[0].mkdir()
    monkeypatch.setattr(socket, "gethostname", lambda: "n\udcffde")
    assert machine_hash() == hashed(b"n\xffde")


def test_of_a_file_that_is_no_id_only_the_beginning_is_read(files: list[Path]) -> None:
    files[0].write_bytes(b"x" * 10_000)
    assert machine_hash() == hashed(b"x" * 256)


def test_this_machine_has_one() -> None:
    assert machine_hash() == machine_hash()
