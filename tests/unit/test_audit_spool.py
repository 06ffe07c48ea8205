"""What processes mint on its way into the journal: no JWT waits or fails, what was written outlives its process."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from keydist.adapters.trail import spool as module
from keydist.adapters.trail.spool import MintSpool, batches, fold_spools
from keydist.core.audit import Event, Mint, What
from keydist.core.audit_record import MAX_RECORD, parse_entry
from keydist.errors import UnsafeFileError
from tests.unit.audit_material import THREE, chained, mint


def folded(runtime: Path) -> tuple[list[str], int]:
    """Fold everything and return the jti of each JWT, and how many were left out."""
    found: list[Mint] = []
    counts: list[int] = []

    def keep(mints: tuple[Mint, ...], left_out: int) -> bool:
        found.extend(mints)
        counts.append(left_out)
        return True

    fold_spools(str(runtime), keep)
    return [one.jti for one in found], sum(counts)


def names(runtime: Path) -> list[str]:
    return sorted(path.name for path in (runtime / "audit-mints").iterdir())


def test_what_was_minted_is_folded_once(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    assert folded(runtime) == ([], 0)
    spool = MintSpool(str(runtime))
    assert folded(runtime) == ([], 0)
    spool.minted(mint(1))
    spool.minted(mint(2))
    assert folded(runtime) == (["1", "2"], 0)
    assert names(runtime) == []
    spool.minted(mint(3))
    spool.close()
    assert folded(runtime) == (["3"], 0)
    spool.minted(mint(4))
    assert folded(runtime) == (["4"], 0)
    assert folded(runtime) == ([], 0)
    assert (runtime / "audit-mints").stat().st_mode & 0o777 == 0o700


def test_the_user_id_is_that_of_who_asked_and_else_that_of_the_process(tmp_path: Path) -> None:
    found: list[Mint] = []
    spool = MintSpool(str(tmp_path / "run"))
    spool.minted(mint(1))
    spool.minted(mint(2)._replace(uid=4242))

    def keep(mints: tuple[Mint, ...], _left_out: int) -> bool:
        found.extend(mints)
        return True

    fold_spools(str(tmp_path / "run"), keep)
    assert [one.uid for one in found] == [os.getuid(), 4242]


def test_what_was_not_kept_stays(tmp_path: Path) -> None:
    MintSpool(str(tmp_path / "run")).minted(mint(1))
    fold_spools(str(tmp_path / "run"), lambda _mints, _left_out: False)
    assert folded(tmp_path / "run") == (["1"], 0)


def test_a_process_that_ended_without_a_word_leaves_what_it_minted(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        MintSpool(str(tmp_path / "run")).minted(mint(1))
        os._exit(0)
    os.waitpid(child, 0)
    assert folded(tmp_path / "run") == (["1"], 0)


def test_a_forked_child_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    spool = MintSpool(str(tmp_path / "run"))
    spool.minted(mint(1))
    child = os.fork()
    if child == 0:
        spool.close()  # nothing of the parent's
        spool.minted(mint(2))
        os._exit(0)
    os.waitpid(child, 0)
    spool.minted(mint(3))
    assert len(names(tmp_path / "run")) == 2
    assert sorted(folded(tmp_path / "run")[0]) == ["1", "2", "3"]


def test_threads_that_mint_while_an_agent_folds_lose_nothing(tmp_path: Path) -> None:
    spool, found = MintSpool(str(tmp_path / "run")), list[str]()

    def mint_many(thread: int) -> None:
        for number in range(200):
            spool.minted(mint(thread * 1000 + number))

    threads = [threading.Thread(target=mint_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += folded(tmp_path / "run")[0]
    found += folded(tmp_path / "run")[0]
    assert sorted(map(int, found)) == sorted(thread * 1000 + number for thread in range(4) for number in range(200))


def test_while_a_file_is_written_to_it_is_left_for_later(tmp_path: Path) -> None:
    spool = MintSpool(str(tmp_path / "run"))
    spool.minted(mint(1))
    (name,) = names(tmp_path / "run")
    with (tmp_path / "run" / "audit-mints" / name).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert folded(tmp_path / "run") == ([], 0)
    assert folded(tmp_path / "run") == (["1"], 0)


def test_while_a_file_is_folded_a_jwt_goes_into_another(tmp_path: Path) -> None:
    spool = MintSpool(str(tmp_path / "run"))
    spool.minted(mint(1))

    def keep(mints: tuple[Mint, ...], _left_out: int) -> bool:
        spool.minted(mint(2))
        return bool(mints)

    fold_spools(str(tmp_path / "run"), keep)
    assert folded(tmp_path / "run") == (["2"], 0)


def test_what_has_no_room_is_counted_and_told_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 400)
    spool = MintSpool(str(tmp_path / "run"))
    for number in range(5):
        spool.minted(mint(number))
    assert folded(tmp_path / "run") == (["0", "1"], 0)
    spool.minted(mint(6))
    assert folded(tmp_path / "run") == (["6"], 3)


def test_without_a_place_to_write_to_a_jwt_is_counted(tmp_path: Path) -> None:
    spool = MintSpool(str(tmp_path / "none" / "run"))
    spool.minted(mint(1))
    (tmp_path / "none").mkdir()
    spool.minted(mint(2))
    assert folded(tmp_path / "none" / "run") == (["2"], 1)


def test_where_every_name_is_taken_a_jwt_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIES", 1)
    MintSpool(str(tmp_path / "run")).minted(mint(1))
    other = MintSpool(str(tmp_path / "run"))
    other.minted(mint(2))
    assert folded(tmp_path / "run") == (["1"], 0)
    other.minted(mint(3))
    assert folded(tmp_path / "run") == (["3"], 1)


def test_lines_that_are_none_are_counted(tmp_path: Path) -> None:
    MintSpool(str(tmp_path / "run")).minted(mint(1))
    (file,) = (tmp_path / "run" / "audit-mints").iterdir()
    with file.open("ab") as out:
        out.write(b'junk\n{"left_out":"x"}\n{"left_out":4}\nhalf a li')
    assert folded(tmp_path / "run") == (["1"], 6)


def test_a_folder_that_others_may_write_to_is_not_folded(tmp_path: Path) -> None:
    MintSpool(str(tmp_path / "run")).minted(mint(1))
    (tmp_path / "run" / "audit-mints").chmod(0o777)
    with pytest.raises(UnsafeFileError):
        folded(tmp_path / "run")


@pytest.mark.parametrize("sub", ["alice", "\U0001f511" * 256], ids=["short", "as long as they can be"])
def test_a_record_takes_any_group_of_jwts(sub: str) -> None:
    mints = tuple(mint(number, sub=sub) for number in range(700))
    groups = list(batches(mints))
    assert [one for group in groups for one in group] == list(mints)
    for group in groups:
        (raw,) = chained([Event(what=What.MINTED, held=THREE[0], minted=group)])
        assert len(raw) <= MAX_RECORD
        assert parse_entry(raw).minted == group
    assert list(batches(())) == []


def test_without_an_agent_later_processes_share_the_files_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILES", 2)
    spools = [MintSpool(str(tmp_path / "run")) for _ in range(5)]
    for number in range(10):
        spools[number % 5].minted(mint(number))
    assert len(names(tmp_path / "run")) == 2
    assert sorted(folded(tmp_path / "run")[0]) == [str(number) for number in range(10)]
    spools[4].minted(mint(10))
    spools[3].minted(mint(11))
    monkeypatch.setattr(module, "FILE_BYTES", 2)
    spools[2].minted(mint(12))  # where there is no room in any
    assert sorted(folded(tmp_path / "run")[0]) == ["10", "11"]
    monkeypatch.undo()
    spools[2].minted(mint(13))
    assert folded(tmp_path / "run") == (["13"], 1)
