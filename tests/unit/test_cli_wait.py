"""`keydist wait`: over as soon as a verified keyset is on disk, and not before; it needs neither token nor store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keydist.cli.wait import WaitOptions, parse_plain
from tests.material import chain
from tests.unit.cli_node import CliNode, install


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


@pytest.fixture
def waiting(node: CliNode) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for the keyset of a node that has none, and no token."""
    node.hold_tokens()
    command = [sys.executable, "-m", "keydist", "wait", "--config", str(node.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "holds no keyset yet" in process.stderr.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("arguments", [(), ("--timeout", "0")])
def test_a_node_that_holds_a_keyset_is_ready_at_once_without_its_token(
    node: CliNode, arguments: tuple[str, ...]
) -> None:
    node.hold()
    node.hold_tokens()
    answer = node.run("wait", *arguments)
    assert (answer.code, answer.out, answer.err) == (0, "a verified keyset is on disk\n", "")
    assert node.run("wait", "--json", *arguments).json == {"ready": True, "changed": False}


def test_without_a_keyset_the_time_ends_it_with_the_reason(node: CliNode) -> None:
    answer = node.run("wait", "--timeout", "0", "--json")
    assert (answer.code, answer.error["code"], answer.error["found"]) == (
        75,
        "timeout",
        "this node holds no keyset yet",
    )
    assert "bootstrap" in answer.error["fix"]


def test_a_damaged_keyset_is_none(node: CliNode) -> None:
    node.hold()
    (node.state / "live" / "keyset.json").write_bytes(b"{}")
    answer = node.run("wait", "--timeout", "0", "--json")
    assert (answer.code, answer.error["code"]) == (75, "timeout")
    assert "sha-256" in answer.error["found"].lower() or "damaged" in answer.error["found"].lower()


def test_a_keyset_of_another_lineage_than_the_configured_one_is_none(node: CliNode) -> None:
    node.hold()
    node.configure(lineage="f" * 32)
    assert node.run("wait", "--timeout", "0").code == 75


def test_it_ends_when_the_keyset_comes(node: CliNode, waiting: subprocess.Popen[str]) -> None:
    assert waiting.poll() is None
    install(node.directory, *chain(1))
    out, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (0, "a verified keyset is on disk\n")


def test_a_configuration_that_is_refused_may_be_repaired_meanwhile(node: CliNode) -> None:
    node.hold()
    good = node.config.read_text(encoding="utf-8")
    node.config.write_text("{", encoding="utf-8")
    command = [sys.executable, "-m", "keydist", "wait", "--config", str(node.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "keydist.yaml" in process.stderr.readline()
        fresh = node.directory / "fresh.yaml"
        fresh.write_text(good, encoding="utf-8")
        fresh.replace(node.config)
        assert process.wait(30) == 0


def test_a_sealed_keyset_counts_once_its_key_is_rendered(node: CliNode) -> None:
    node.configure(at_rest="sealed")
    node.hold()
    assert node.run("bootstrap").code == 0  # lays it out sealed
    node.hold_tokens()
    assert node.run("wait", "--timeout", "0").code == 0
    (node.directory / "run" / "signing-key.pem").unlink()  # as after a boot
    answer = node.run("wait", "--timeout", "0", "--json")
    assert (answer.code, answer.error["code"]) == (75, "timeout")


def test_the_service_manager_hears_what_is_waited_for_and_that_it_is_over(
    node: CliNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket  # noqa: PLC0415 - one test

    node.hold()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"@keydist-wait-{os.getpid()}"
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert node.run("wait").code == 0
        assert manager.recv(4096).startswith(b"READY=1\n")
        (node.state / "live").unlink()
        assert node.run("wait", "--timeout", "1s").code == 75
        assert b"EXTEND_TIMEOUT_USEC=" in manager.recv(4096)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], WaitOptions()),
        (["--config", "a", "--timeout", "2m"], WaitOptions(config="a", timeout="2m")),
        (["--json"], None),
        (["--timeout"], None),
        (["--timeout", "--json"], None),
        (["--help"], None),
        (["--timeout=2m"], None),
    ],
)
def test_the_plain_forms_need_no_command_line_library(arguments: list[str], expected: WaitOptions | None) -> None:
    assert parse_plain(arguments) == expected


def test_where_the_keyset_is_there_it_loads_neither_a_command_line_library_nor_an_event_loop(node: CliNode) -> None:
    node.hold()
    program = "import sys; from keydist.cli.main import _run; assert _run(sys.argv[1:]) == 0"
    program += "; print({'typer', 'rich', 'asyncio', 'nats'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program, "wait"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_time_that_is_none_is_refused(node: CliNode) -> None:
    assert json.loads(node.run("wait", "--timeout", "soon", "--json").out)["error"]["code"] == "usage"
