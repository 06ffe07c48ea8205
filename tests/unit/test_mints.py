"""Counts of what was minted: every process its own file, the dead folded into a total, and minting never stopped."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.mints import MintCounter, fold_mints, read_mints
from keydist.core.record import Minted
from keydist.daemon import MintKeeper
from tests.fakes.clock import VirtualClock
from tests.material import NOW, hold, make_keyset, sig_key

KID, OTHER = sig_key("A").kid, sig_key("B").kid
BOTH = frozenset({KID, OTHER})


class Runtime:
    """A runtime directory, and counters on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = VirtualClock(NOW)
        self.counters: list[MintCounter] = []

    def counter(self) -> MintCounter:
        self.counters.append(MintCounter(str(self.path), self.clock))
        return self.counters[-1]

    def read(self) -> dict[str, Minted]:
        return read_mints(str(self.path))

    def fold(self, keep: frozenset[str] = BOTH) -> None:
        fold_mints(str(self.path), keep)

    def files(self) -> list[str]:
        return sorted(file.name for file in (self.path / "mints").glob("*.json"))


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "run")


def in_a_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child that ends as if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - it must not go on as a second test run
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_first_jwt_under_a_key_is_written_at_once(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW + 60)
    assert runtime.read() == {KID: Minted(1, NOW + 60)}
    counter.minted(OTHER, NOW + 30)
    assert runtime.read() == {KID: Minted(1, NOW + 60), OTHER: Minted(1, NOW + 30)}
    counter.close()


def test_then_the_count_is_written_once_a_second(runtime: Runtime) -> None:
    counter = runtime.counter()
    for _ in range(10):
        counter.minted(KID, NOW + 60)
    assert runtime.read() == {KID: Minted(1, NOW + 60)}
    runtime.clock.advance(1)
    counter.minted(KID, NOW + 10)
    assert runtime.read() == {KID: Minted(11, NOW + 60)}
    counter.minted(KID, NOW + 99)
    counter.close()
    assert runtime.read() == {KID: Minted(12, NOW + 99)}


def test_files_are_the_owners_alone(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (runtime.path / "mints").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((runtime.path / "mints").stat().st_mode) == 0o700
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700
    counter.close()


def test_a_runtime_directory_that_a_group_reads_is_used_as_it_is(runtime: Runtime) -> None:
    runtime.path.mkdir(mode=0o750)
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.close()
    assert runtime.read() == {KID: Minted(1, NOW)}
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o750


def test_every_counter_has_its_own_file_and_all_are_summed(runtime: Runtime) -> None:
    for number in range(3):
        runtime.counter().minted(KID, NOW + number)
    assert len(runtime.files()) == 3
    assert runtime.read() == {KID: Minted(3, NOW + 2)}
    for counter in runtime.counters:
        counter.close()


def test_a_forked_child_counts_anew(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)

    def work() -> None:
        counter.minted(KID, NOW + 1)
        counter.minted(OTHER, NOW + 2)

    in_a_child(work)
    runtime.clock.advance(1)
    counter.minted(KID, NOW)
    assert runtime.read() == {KID: Minted(3, NOW + 1), OTHER: Minted(1, NOW + 2)}
    counter.close()


def test_a_child_that_never_mints_leaves_its_parents_file_alone(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.minted(KID, NOW)
    in_a_child(counter.close)
    assert runtime.read() == {KID: Minted(1, NOW)}, "the second is the parent's to write"
    runtime.fold()
    assert len(runtime.files()) == 1
    assert "total.json" not in runtime.files()
    counter.close()


def test_the_dead_are_folded_and_the_living_are_not(runtime: Runtime) -> None:
    living = runtime.counter()
    living.minted(KID, NOW)
    in_a_child(lambda: runtime.counter().minted(KID, NOW + 5))
    in_a_child(lambda: runtime.counter().minted(OTHER, NOW + 6))
    before = runtime.read()
    runtime.fold()
    assert runtime.read() == before == {KID: Minted(2, NOW + 5), OTHER: Minted(1, NOW + 6)}
    assert len(runtime.files()) == 2
    runtime.fold()
    assert runtime.read() == before
    runtime.clock.advance(1)
    living.minted(KID, NOW)
    assert runtime.read()[KID] == Minted(3, NOW + 5)
    living.close()
    runtime.fold()
    assert runtime.files() == ["total.json"]
    assert runtime.read()[KID] == Minted(3, NOW + 5)


def test_more_processes_than_files_can_be_open_are_folded_by_and_by(runtime: Runtime) -> None:
    for _ in range(20):
        counter = runtime.counter()
        counter.minted(KID, NOW + 60)
        counter.close()
    folder = runtime.path / "mints"
    (content,) = {file.read_bytes() for file in folder.glob("*.json")}
    for number in range(300):
        for suffix, data in ((".json", content), (".lock", b"")):
            (folder / f"99999-{number}{suffix}").write_bytes(data)
            (folder / f"99999-{number}{suffix}").chmod(0o600)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 300, limits[1]))
    try:
        runtime.fold()
        runtime.fold()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert runtime.files() == ["total.json"]
    assert runtime.read() == {KID: Minted(320, NOW + 60)}


def test_an_agent_folds_whenever_it_reads(runtime: Runtime) -> None:
    keeper = MintKeeper(str(runtime.path))
    keeper.changed(hold(make_keyset(1)))
    for number in range(1, 4):
        counter = runtime.counter()
        counter.minted(KID, NOW + 60)
        counter.close()
        assert keeper.minted() == {KID: Minted(number, NOW + 60)}
        assert runtime.files() == ["total.json"]


def test_keys_that_are_gone_leave_the_total(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.minted(OTHER, NOW)
    counter.close()
    runtime.fold()
    runtime.fold(frozenset({OTHER}))
    assert runtime.read() == {OTHER: Minted(1, NOW)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"x":[1,2]}',
        f'{{"{KID}":[1]}}'.encode(),
        f'{{"{KID}":[1,2,3]}}'.encode(),
        f'{{"{KID}":[1,-2]}}'.encode(),
        f'{{"{KID}":[1.5,2]}}'.encode(),
        f'{{"{KID}":1}}'.encode(),
        f'{{"{KID}":[1,2],"{KID}":[1,2]}}'.encode(),
        b" " * 100_000,
    ],
)
def test_what_cannot_be_read_does_not_count(runtime: Runtime, content: bytes) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    bad = runtime.path / "mints" / "77-0.json"
    bad.write_bytes(content)
    bad.chmod(0o600)
    assert runtime.read() == {KID: Minted(1, NOW)}
    runtime.fold()
    assert runtime.read() == {KID: Minted(1, NOW)}
    counter.close()


def test_a_file_that_others_may_write_does_not_count(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    (runtime.path / "mints" / runtime.files()[0]).chmod(0o666)
    assert runtime.read() == {}
    counter.close()


def test_without_a_directory_there_is_nothing_to_read_or_fold(runtime: Runtime) -> None:
    runtime.fold()
    assert runtime.read() == {}
    assert not runtime.path.exists()


def test_counting_goes_on_in_memory_where_nothing_can_be_written(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "missing" / "run")
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.minted(OTHER, NOW)
    assert runtime.read() == {}
    (tmp_path / "missing").mkdir()
    runtime.clock.advance(1)
    counter.minted(KID, NOW + 1)
    assert runtime.read() == {KID: Minted(2, NOW + 1), OTHER: Minted(1, NOW)}
    counter.close()


def test_a_directory_that_was_taken_away_is_made_again(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    runtime.path.rename(runtime.path.with_name("gone"))
    for path in (runtime.path.with_name("gone") / "mints").iterdir():
        path.unlink()
    (runtime.path.with_name("gone") / "mints").rmdir()
    for _ in range(2):
        runtime.clock.advance(1)
        counter.minted(KID, NOW)
    assert runtime.read() == {KID: Minted(3, NOW)}
    counter.close()


def test_a_file_that_comes_back_is_not_counted_twice(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    folder = runtime.path / "mints"
    shutil.copytree(folder, runtime.path / "copy")
    shutil.rmtree(folder)
    runtime.clock.advance(1)
    counter.minted(KID, NOW)
    assert runtime.read() == {}
    (runtime.path / "copy").rename(folder)
    runtime.clock.advance(1)
    counter.minted(KID, NOW)
    assert runtime.read() == {KID: Minted(3, NOW)}
    counter.close()


def test_a_file_of_the_dead_under_the_same_process_id_is_left_alone(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.close()
    later = runtime.counter()
    later.minted(KID, NOW)
    assert runtime.read() == {KID: Minted(2, NOW)}
    later.close()


def test_nobody_settles_or_folds_while_another_process_folds(runtime: Runtime) -> None:
    counter = runtime.counter()
    counter.minted(KID, NOW)
    counter.close()
    with (runtime.path / "mints" / "folding").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        later = runtime.counter()
        later.minted(KID, NOW)
        runtime.fold()
        assert runtime.read() == {KID: Minted(1, NOW)}
        assert runtime.files() == [f"{os.getpid()}-0.json"]
    runtime.clock.advance(1)
    later.minted(KID, NOW)
    runtime.fold()
    assert runtime.read() == {KID: Minted(3, NOW)}
    later.close()


def test_threads_may_share_one(runtime: Runtime) -> None:
    counter = runtime.counter()

    def work() -> None:
        for _ in range(500):
            counter.minted(KID, NOW)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.close()
    assert runtime.read() == {KID: Minted(4000, NOW)}
