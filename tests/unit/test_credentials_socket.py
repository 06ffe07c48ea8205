"""Credentials for units: given whole to whom a rule allows them; whoever is refused gets more than is ever taken."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.config_credentials import CredentialRule
from keydist.adapters.credentials_socket import REFUSALS, SOCKET, CredentialsSocket, parse_address
from keydist.adapters.disk.archive import JWKS, PEM, render
from keydist.core.accept import Held
from tests.fakes.journal import RecordingJournal
from tests.material import Change, extend, first
from tests.unit.service_manager import ROOT, address_of, client, read
from tests.unit.test_hooks import until

RULES: Final = (
    CredentialRule("web.service", ("signing-key", "jwks")),
    CredentialRule("web@*.service", ("jwks",)),
)


class Node:
    """A node with its socket."""

    def __init__(self, directory: Path) -> None:
        self.run, self.live = directory / "run", directory / "live"
        self.path = self.run / SOCKET
        self.log = RecordingJournal()
        self.socket = CredentialsSocket(
            str(self.run), live=str(self.live), log=self.log, clock=SystemClock(), patience=0.5
        )
        self.socket.rules = RULES

    def hold(self, held: Held) -> None:
        """Have a keyset on disk, and tell of it."""
        if not self.live.is_symlink():
            self.live.symlink_to("archive")
        self.socket.changed(held)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.socket.run())
            await until(lambda: self.path.exists() or self.socket.alarms() or not self.socket.rules)
            yield
            task.cancel()

    async def asked(self, unit: str = "web.service", credential: str = "signing-key") -> bytes | None:
        return await asyncio.to_thread(lambda: read(client(self.path, address_of(unit, credential))))

    def told(self, name: str) -> list[dict[str, object]]:
        return self.log.named(name)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.socket.close()
    secrets = [part for held in (first(), AFTER) for part in files(held)[PEM].splitlines()[1:-1]]
    assert not [part for part in secrets if part.decode() in str(made.log.events)]


AFTER: Final = extend(first(), Change.ROTATE)


def files(held: Held) -> dict[str, bytes]:
    """Return the files that are live on disk with a keyset."""
    return render(held, sealed=False)


# --- what is asked for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        (b"\x00123abc/unit/web.service/signing-key", ("web.service", "signing-key")),
        (b"\0Z/unit/web@a@b\\x2d:_.service/jwks", ("web@a@b\\x2d:_.service", "jwks")),
        (b"\0f/unit/a.service/another.name", ("a.service", "another.name")),
        (b"123abc/unit/web.service/signing-key", None),
        (b"\0/unit/web.service/signing-key", None),
        (b"\0f/unit/web.service/", None),
        (b"\0f/unit//signing-key", None),
        (b"\0f/unit/web.service", None),
        (b"\0f/unit/web.service/signing-key/", None),
        (b"\0f/unit/web.service/signing-key\0", None),
        (b"\0f/unit/web.service/signing-key\n", None),
        (b"\0f/unit/a/web.service/signing-key", None),
        (b"\0f/unit/../web.service/signing-key", None),
        (b"\0f/user/web.service/signing-key", None),
        (b"\0f/unit/web@.service/signing-key", None),
        (b"\0f/unit/web.socket/signing-key", None),
        (b"\0f/unit/w\xc3\xa9b.service/signing-key", None),
        (b"\0\xff/unit/web.service/signing-key", None),
        (b"\0f/unit/" + b"x" * 200 + b".service/jwks", None),
        ("/run/somebody.sock", None),
        ("\0f/unit/web.service/signing-key", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_names_one_service_and_one_credential_or_nothing(address: object, asked: object) -> None:
    assert parse_address(address) == asked


# --- who gets what ------------------------------------------------------------------------------


@ROOT
async def test_an_allowed_unit_gets_exactly_what_the_files_on_disk_hold(node: Node) -> None:
    node.hold(first())
    async with node.running():
        assert await node.asked("web.service", "signing-key") == files(first())[PEM]
        assert await node.asked("web.service", "jwks") == files(first())[JWKS]
        assert await node.asked("web@blue.service", "jwks") == files(first())[JWKS]
        node.hold(AFTER)
        assert await node.asked() == files(AFTER)[PEM] != files(first())[PEM]
    active = [held.keyset.active.kid for held in (first(), AFTER)]
    assert node.told("credential-given")[0] == {
        "unit": "web.service",
        "credential": "signing-key",
        "epoch": 1,
        "kid": active[0],
    }
    assert [told["kid"] for told in node.told("credential-given")] == [active[0]] * 3 + [active[1]]


@ROOT
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (address_of("other.service", "signing-key"), "credentials: does not allow it"),
        (address_of("web@blue.service", "signing-key"), "credentials: does not allow it"),
        (address_of("web.service", "token"), "there is no such credential: signing-key, jwks"),
        (address_of("web.service", "../signing-key"), "it does not come from a service manager"),
        (b"\0nobody", "it does not come from a service manager"),
        (None, "it does not come from a service manager"),
    ],
    ids=["no rule for it", "a rule for another", "no such credential", "malformed", "another name", "no name"],
)
async def test_whoever_is_refused_gets_more_than_a_service_manager_takes(
    node: Node, address: bytes | None, reason: str
) -> None:
    node.hold(first())
    async with node.running():
        assert await asyncio.to_thread(lambda: read(client(node.path, address))) is None
    [refused] = node.told("credential-refused")
    assert refused["reason"] == reason
    assert not node.told("credential-given")


@ROOT
async def test_a_key_that_cannot_be_written_is_refused_and_not_empty(node: Node) -> None:
    node.hold(cast("Held", object()))  # whatever the defect may be
    async with node.running():
        assert await node.asked() is None
        node.hold(first())
        assert await node.asked() == files(first())[PEM]
    [refused] = node.told("credential-refused")
    assert (refused["unit"], refused["reason"]) == ("web.service", "AttributeError")


@ROOT
async def test_a_user_who_is_not_root_is_refused_whatever_address_it_has(node: Node) -> None:
    node.hold(first())
    program = (
        "import os, socket, sys\n"
        "made = socket.socket(socket.AF_UNIX)\n"
        f"made.bind({address_of('web.service', 'signing-key')!r})\n"
        "os.chdir(sys.argv[1])\n"
        "if sys.argv[2] == 'early': os.setuid(65534)\n"
        f"made.connect({SOCKET!r})\n"
        "found = sum(iter(lambda: len(made.recv(65536)), 0))\n"
        "sys.exit(found > 2**20)"
    )
    async with node.running():

        def run(when: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                [sys.executable, "-c", program, str(node.run), when], check=False, capture_output=True
            )

        assert b"PermissionError" in (await asyncio.to_thread(run, "early")).stderr
        assert not node.told("credential-refused"), "the socket's mode keeps others away"
        node.run.chmod(0o755)
        node.path.chmod(0o666)
        assert (await asyncio.to_thread(run, "early")).returncode == 1
        node.run.chmod(0o700)
    assert [told["reason"] for told in node.told("credential-refused")] == ["it does not come from root"]


# --- when there is none -------------------------------------------------------------------------


@ROOT
async def test_who_asks_before_there_is_a_key_waits_for_it(node: Node) -> None:
    async with node.running():
        early = [client(node.path, address_of("web.service", "signing-key")) for _ in range(5)]
        gone = client(node.path, address_of("web.service", "jwks"))
        gone.close()
        early[0].settimeout(0.05)
        with pytest.raises(TimeoutError):
            early[0].recv(1)
        early[0].settimeout(10)
        node.hold(first())
        for made in early:
            assert await asyncio.to_thread(read, made) == files(first())[PEM]
        await until(lambda: node.told("credential-not-taken"))


@ROOT
async def test_nothing_is_given_that_the_disk_holds_no_more(node: Node) -> None:
    node.hold(first())
    async with node.running():
        assert await node.asked() == files(first())[PEM]
        node.live.unlink()
        later = client(node.path, address_of("web.service", "signing-key"), seconds=0.05)
        with pytest.raises(TimeoutError):
            later.recv(1)
        later.settimeout(10)
        node.hold(first())
        assert await asyncio.to_thread(read, later) == files(first())[PEM]


@ROOT
async def test_who_waits_is_reset_at_the_end_and_never_given_nothing(node: Node) -> None:
    async with node.running():
        waiting = client(node.path, address_of("web.service", "signing-key"))
    node.socket.close()
    assert read(waiting) is None


@ROOT
def test_who_waits_is_reset_when_the_agent_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from keydist.adapters.clock import SystemClock\n"
        "from keydist.adapters.config_credentials import CredentialRule\n"
        "from keydist.adapters.credentials_socket import CredentialsSocket\n"
        "from tests.fakes.journal import RecordingJournal\n"
        "async def main():\n"
        "    made = CredentialsSocket(sys.argv[1], live='/nowhere', log=RecordingJournal(), clock=SystemClock())\n"
        "    made.rules = (CredentialRule('web.service', ('signing-key',)),)\n"
        "    await made.run()\n"
        "asyncio.run(main())"
    )
    path = tmp_path / "run" / SOCKET
    with subprocess.Popen([sys.executable, "-c", program, str(path.parent)]) as agent:
        while not path.exists():
            assert agent.poll() is None
        waiting = client(path, address_of("web.service", "signing-key"))
        agent.send_signal(signal.SIGKILL)
    assert read(waiting) is None


# --- many, and slow -----------------------------------------------------------------------------


@ROOT
async def test_a_hundred_at_once_are_answered(node: Node) -> None:
    node.hold(first())

    def ask(number: int) -> bytes | None:
        unit = "web.service" if number % 2 else "other.service"
        return read(client(node.path, address_of(unit, "signing-key")))

    async with node.running():
        answers: list[bytes | None] = [b""] * 100
        threads = [threading.Thread(target=lambda n=n: answers.__setitem__(n, ask(n))) for n in range(100)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))
    assert answers == [None, files(first())[PEM]] * 50


@ROOT
async def test_who_does_not_read_holds_up_others_for_no_longer_than_the_patience(node: Node) -> None:
    node.hold(first())
    async with node.running():
        slow = []
        for _ in range(REFUSALS + 1):
            slow.append(client(node.path, address_of("other.service", "signing-key")))
            await until(lambda: len(node.told("credential-refused")) >= min(len(slow), REFUSALS))
        assert await node.asked() == files(first())[PEM]
        for made in slow:
            made.close()
    assert len(node.told("credential-refused")) == REFUSALS + 1


@ROOT
async def test_a_refusal_under_way_at_the_end_is_finished(node: Node) -> None:
    node.hold(first())
    reads: list[bytes | None] = [b""]
    async with node.running():
        refused = client(node.path, address_of("other.service", "signing-key"))
        await until(lambda: node.told("credential-refused"))
        reader = threading.Thread(target=lambda: reads.__setitem__(0, read(refused)))
        reader.start()
    reader.join()
    assert reads == [None]


# --- the socket ---------------------------------------------------------------------------------


async def test_the_socket_is_its_owners_alone_from_the_start(node: Node) -> None:
    async with node.running():
        found = node.path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert stat.S_IMODE(node.run.stat().st_mode) == 0o700
        assert list(node.run.iterdir()) == [node.path]


async def test_without_rules_there_is_no_socket(node: Node) -> None:
    async with node.running():
        assert node.path.exists()
    node.socket.rules = ()
    async with node.running():
        await until(lambda: not node.path.exists())


@pytest.mark.parametrize("what", ["socket", "file", "link", "fresh"])
@ROOT
async def test_what_an_earlier_process_left_is_replaced(node: Node, what: str) -> None:
    node.run.mkdir(mode=0o700)
    elsewhere = node.run.parent / "elsewhere"
    elsewhere.write_text("mine", encoding="utf-8")
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(node.path))
    elif what == "link":
        node.path.symlink_to(elsewhere)
    else:
        (node.path if what == "file" else node.run / f".{SOCKET}.new").write_bytes(b"")
    node.hold(first())
    async with node.running():
        await until(lambda: node.told("credentials-offered"))
        assert await node.asked() == files(first())[PEM]
    assert elsewhere.read_text(encoding="utf-8") == "mine"
    node.socket.close()
    assert not list(node.run.iterdir())


@ROOT
async def test_who_connects_between_two_runs_is_answered_by_the_second_with_its_rules(node: Node) -> None:
    node.hold(first())
    async with node.running():
        pass
    between = [client(node.path, address_of(unit, "jwks")) for unit in ("web.service", "new.service")]
    node.socket.rules = (CredentialRule("new.service", ("jwks",)),)
    async with node.running():
        answers = [await asyncio.to_thread(read, made) for made in between]
    assert answers == [None, files(first())[JWKS]]
    assert len(node.told("credentials-offered")) == 1


async def test_the_end_leaves_the_socket_of_another_process_alone(node: Node, tmp_path: Path) -> None:
    async with node.running():
        node.path.unlink()
        node.path.write_bytes(b"another's")
    node.socket.close()
    assert node.path.read_bytes() == b"another's"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_AGAIN_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(f"keydist.adapters.credentials_socket.{name}", 0.05)


@ROOT
@pytest.mark.usefixtures("soon")
async def test_a_socket_that_was_removed_is_made_again(node: Node) -> None:
    node.hold(first())
    async with node.running():
        shutil.rmtree(node.run)
        await until(node.path.exists)
        assert await node.asked() == files(first())[PEM]


def readable_by_all(node: Node) -> Callable[[], object]:
    node.run.mkdir(mode=0o755)
    return lambda: node.run.chmod(0o700)


def a_directory_in_the_way(node: Node) -> Callable[[], object]:
    node.path.mkdir(parents=True, mode=0o700)
    node.run.chmod(0o700)
    return node.path.rmdir


@ROOT
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("spoil", [readable_by_all, a_directory_in_the_way])
async def test_a_socket_that_cannot_be_made_is_an_alarm_until_it_can(
    node: Node, spoil: Callable[[Node], Callable[[], object]]
) -> None:
    mend = spoil(node)
    node.hold(first())
    async with node.running():
        await until(node.socket.alarms)
        [alarm] = node.socket.alarms()
        assert (alarm.code, str(node.path) in alarm.message, bool(alarm.found)) == ("cannot-listen", True, True)
        mend()
        await until(lambda: not node.socket.alarms())
        assert await node.asked() == files(first())[PEM]
