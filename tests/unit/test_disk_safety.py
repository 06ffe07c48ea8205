"""What is not keydist's own is refused, not repaired: another owner, a wider mode, a link, another kind of file."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.core.local import Confirmation
from keydist.errors import PermissionFamilyError, UnsafeFileError, WrongUserError
from tests.crash.state import StateDirectory
from tests.fakes.faulty_system import FaultySystem, at
from tests.material import NOW, chain

ONE, TWO = chain(2)

SECRET = (
    "live/keyset.jwe",
    "live/keyset.json",
    "live/signing-key.pem",
    "live/sums",
    "floor.json",
    "lock",
)
PUBLIC = ("live/jwks.json", "seen.json", "confirmed.json")
DIRECTORIES = ("", "archive", "live", "public", "quarantine")
FILES = (*SECRET, *PUBLIC)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """The state directory of a node that has everything a node can have."""
    made = StateDirectory(tmp_path).install(ONE, TWO)
    confirm(made)
    made.disk().quarantine(b"refused")
    return made


def confirm(state: StateDirectory, system: FaultySystem | None = None) -> None:
    state.disk(system).confirm(Confirmation(epoch=2, digest=TWO.digest, at=NOW))


def use(state: StateDirectory, system: FaultySystem | None = None) -> None:
    """Touch everything that a running node touches."""
    disk = state.disk(system)
    disk.settle(disk.load(()), now=NOW)
    confirm(state, system)


def of(state: StateDirectory, name: str) -> Path:
    """Return the real path of a file, below the directory that `live` names."""
    path = state.path / name
    return path.parent.resolve() / path.name if name not in ("live", "") else path.resolve()


def assert_refused(
    state: StateDirectory, path: Path, error: type[PermissionFamilyError], system: FaultySystem | None = None
) -> PermissionFamilyError:
    before = state.files()
    with pytest.raises(error) as caught:
        use(state, system)
    assert caught.value.exit_code == 77
    assert path.name in caught.value.message
    assert caught.value.fix
    assert state.files() == before
    return caught.value


def test_what_keydist_made_is_not_refused(state: StateDirectory) -> None:
    use(state)


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001], ids="{:03o}".format)
@pytest.mark.parametrize("name", [*SECRET, *DIRECTORIES])
def test_a_secret_file_or_a_directory_that_others_may_use(state: StateDirectory, name: str, bit: int) -> None:
    path = of(state, name)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | bit)
    error = assert_refused(state, path, UnsafeFileError)
    assert error.found == f"mode {stat.S_IMODE(path.stat().st_mode):04o}"
    assert f"chmod {error.expected.removeprefix('mode ')}" in error.fix


@pytest.mark.parametrize("bit", [0o020, 0o002], ids="{:03o}".format)
@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_file_that_others_may_write(state: StateDirectory, name: str, bit: int) -> None:
    path = of(state, name)
    path.chmod(0o644 | bit)
    assert_refused(state, path, UnsafeFileError)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_file_may_be_read_by_all(state: StateDirectory, name: str) -> None:
    of(state, name).chmod(0o644)
    use(state)


@pytest.mark.parametrize(("name", "allowed"), [("live/signing-key.pem", 0o640), ("live/keyset.json", 0o600)])
def test_with_a_group_only_the_pem_may_be_read_by_it(tmp_path: Path, name: str, allowed: int) -> None:
    state = StateDirectory(tmp_path, gid=os.getgid()).install(ONE, TWO)
    path = of(state, name)
    assert stat.S_IMODE(path.stat().st_mode) == allowed
    use(state)
    path.chmod(0o644)
    assert_refused(state, path, UnsafeFileError)
    path.chmod(0o660)
    assert_refused(state, path, UnsafeFileError)


def test_a_group_that_is_no_longer_configured_may_no_longer_read(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, gid=os.getgid()).install(ONE, TWO)
    assert_refused(StateDirectory(tmp_path), state.path, UnsafeFileError)


# --- owners -------------------------------------------------------------------------------------


def owned_by_another(path: Path) -> FaultySystem:
    """Return a machine on which one path belongs to another user."""

    def fstat(fd: int) -> os.stat_result:
        found = list(os.fstat(fd))
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            found[stat.ST_UID] += 1
        return os.stat_result(found)

    return FaultySystem(instead={"fstat": fstat})


@pytest.mark.parametrize("name", [*FILES, *DIRECTORIES])
def test_what_belongs_to_another_user(state: StateDirectory, name: str) -> None:
    path = of(state, name)
    error = assert_refused(state, path, WrongUserError, owned_by_another(path))
    assert (error.expected, error.found) == (f"owner {os.geteuid()}", f"owner {os.geteuid() + 1}")


# --- links and other kinds ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, *DIRECTORIES])
def test_a_link_in_place_of_what_keydist_made(state: StateDirectory, name: str) -> None:
    path = of(state, name)
    aside = state.base / "aside"
    path.rename(aside)
    path.symlink_to(aside)
    assert_refused(state, path, UnsafeFileError)
    assert path.is_symlink()


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)
    path.chmod(0o600)


def directory(path: Path) -> None:
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("kind", [fifo, listening_socket, directory])
@pytest.mark.parametrize("name", FILES)
def test_another_kind_of_file(state: StateDirectory, name: str, kind: Callable[[Path], None]) -> None:
    path = of(state, name)
    path.unlink()
    kind(path)
    assert "not a regular file" in assert_refused(state, path, UnsafeFileError).message


@pytest.mark.parametrize("name", FILES)
def test_a_device(state: StateDirectory, name: str) -> None:
    path = of(state, name)

    def fstat(fd: int) -> os.stat_result:
        found = list(os.fstat(fd))
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            found[stat.ST_MODE] = stat.S_IFCHR | 0o600
        return os.stat_result(found)

    assert_refused(state, path, UnsafeFileError, FaultySystem(instead={"fstat": fstat}))


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_file_in_place_of_a_directory(state: StateDirectory, name: str) -> None:
    path = of(state, name)
    path.rename(state.base / "aside")
    path.touch(mode=0o600)
    assert "not a directory" in assert_refused(state, path, UnsafeFileError).message


def regular_file(path: Path) -> None:
    path.touch(mode=0o600)


@pytest.mark.parametrize("kind", [fifo, directory, regular_file])
def test_something_in_place_of_the_live_link(state: StateDirectory, kind: Callable[[Path], None]) -> None:
    live = state.path / "live"
    live.unlink()
    kind(live)
    assert "not a symbolic link" in assert_refused(state, live, UnsafeFileError).message


@pytest.mark.parametrize("name", [".floor.json.new", ".live.new", "archive/.000003.new", "public/.x.jwk.new"])
def test_a_planted_link_is_removed_and_never_followed(state: StateDirectory, name: str) -> None:
    target = state.base / "of the operator"
    target.write_text("untouched")
    state.path.joinpath(name).symlink_to(target)
    state.settle()
    state.install(*chain(3)[2:])
    assert target.read_text() == "untouched"
    assert state.leftovers() == []


def test_a_runtime_directory_that_others_may_use(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, sealed=True).install(ONE)
    state.runtime.chmod(0o755)
    with pytest.raises(UnsafeFileError, match="run can be used by others"):
        state.settle()


def test_a_directory_that_may_not_be_opened_names_the_user(state: StateDirectory) -> None:
    with pytest.raises(WrongUserError, match="Permission denied") as caught:
        state.disk(FaultySystem(at(1, PermissionError(errno.EACCES, "denied")))).load(())
    assert caught.value.found == f"user {os.geteuid()}"
