"""The command line as a whole: help, version, completion, usage errors, interrupts, streams; and `keydist reset`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from keydist import __version__
from keydist.cli import app as application
from keydist.cli.app import app
from keydist.cli.command import held_local, this_node
from keydist.errors import CorruptError
from tests.material import chain
from tests.unit.cli_node import CliNode, Terminal

MINE = chain(2)[-1]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


# --- help, version, completion ------------------------------------------------------------------


def commands(group: TyperGroup, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


def all_commands() -> list[tuple[str, ...]]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return sorted(commands(group))


ALL = all_commands()


def test_the_commands_that_others_depend_on_are_there() -> None:
    others = """bootstrap | status | demo | reset | token generate | token inspect | key list | key show | key export
        | key rotate | key revoke | key extend | token rotate | token retire | policy show | policy set
        | store init | store republish | store resolve | store backup | store restore | jwks | config check
        | config show | config schema | jwt mint | jwt verify | jwt inspect | jwt sink | jwe encrypt | jwe decrypt"""
    assert {tuple(name.split()) for name in others.split("|")} <= set(ALL)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_an_example_of_itself(node: CliNode, command: tuple[str, ...], flag: str) -> None:
    answer = node.run(*command, flag)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: keydist {' '.join(command)} ")
    assert f"Example: keydist {' '.join(command)}" in answer.out


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_refuses_what_it_does_not_know(node: CliNode, command: tuple[str, ...]) -> None:
    answer = node.run(*command, "--no-such-option", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert answer.error["fix"] == f"see: keydist {' '.join(command)} --help"
    assert answer.err.startswith("keydist: No such option: --no-such-option")


@pytest.mark.parametrize(
    "arguments", [(), *((name,) for name in ("token", "store", "key", "policy", "config", "jwt", "jwe"))]
)
def test_a_command_that_needs_more_answers_with_its_help(node: CliNode, arguments: tuple[str, ...]) -> None:
    answer = node.run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"Usage: {' '.join(('keydist', *arguments))} ")
    assert "Commands:\n" in answer.err


USAGE: dict[str, tuple[list[str], str, str]] = {
    "no such command": (["nonsense"], "No such command 'nonsense'", "keydist --help"),
    "a command that is nearly one": (["stauts"], "Did you mean 'status'?", "keydist --help"),
    "no such command below": (["store", "x"], "No such command 'x'", "keydist store --help"),
    "an option that is nearly one": (["status", "--ofline"], "--offline", "keydist status --help"),
    "a missing argument": (["store", "backup"], "Missing argument 'FILE'", "keydist store backup --help"),
    "a missing value": (["status", "--config"], "requires an argument", "keydist --help"),
    "an extra argument": (["status", "x"], "unexpected extra argument", "keydist status --help"),
    "a missing setting": (["policy", "set"], "Missing argument 'NAME=DURATION...'", "keydist policy set --help"),
    "a missing new token": (["token", "rotate"], "Missing option '--new-token-file'", "keydist token rotate --help"),
    "no number": (["bootstrap", "--min-epoch", "x"], "--min-epoch is an epoch", "keydist bootstrap --help"),
    "control characters": (["\x1b]0;owned\x07"], "No such command", "keydist --help"),
    "a lone surrogate": (["\udcff"], "No such command", "keydist --help"),
}


@pytest.mark.parametrize(("arguments", "message", "fix"), USAGE.values(), ids=USAGE)
def test_a_mistake_on_the_command_line_is_2_and_says_where_to_look(
    node: CliNode, arguments: list[str], message: str, fix: str
) -> None:
    answer = node.run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.removesuffix("\n").endswith(f"; see: {fix}")
    assert answer.err.removesuffix("\n").isprintable()


def test_with_json_a_mistake_is_json(node: CliNode) -> None:
    answer = node.run("status", "x", "--json")
    assert (answer.code, answer.error["code"], answer.error["family"]) == (2, "usage", "usage")


def test_the_version(node: CliNode) -> None:
    answer = node.run("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"keydist {__version__}\n", "")
    assert node.run("--version", "status").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_told_how_to_complete(node: CliNode, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_KEYDIST_COMPLETE", f"source_{shell}")
    answer = node.run()
    assert answer.code == 0
    assert f"_KEYDIST_COMPLETE=complete_{shell}" in answer.out
    assert "python" not in answer.out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("keydist st", ["status", "store"]),
        ("keydist store re", ["republish", "restore", "resolve"]),
        ("keydist bootstrap --mi", ["--min-epoch"]),
    ],
)
def test_commands_and_options_complete(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, words: str, found: list[str]
) -> None:
    monkeypatch.setenv("_KEYDIST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    answer = node.run()
    assert answer.code == 0
    assert sorted(line.strip() for line in answer.out.splitlines()) == sorted(found)


def test_the_completion_that_is_shown_is_the_programs_own(node: CliNode) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m keydist --show-completion; exit $?"],
        env=os.environ | {"SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_KEYDIST_COMPLETE=complete_bash" in done.stdout
    assert "python" not in done.stdout


# --- reset --------------------------------------------------------------------------------------


def test_reset_asks_and_takes_no_for_an_answer(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("reset", stdin=Terminal("n\n"))
    assert (answer.code, answer.out) == (1, "")
    assert f"Forget everything in {node.state}?" in answer.err
    assert "nothing was forgotten" in answer.err
    assert node.load().held == MINE


def test_reset_asks_and_takes_yes_for_an_answer(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("reset", "--json", stdin=Terminal("y\n"))
    assert (answer.code, answer.json) == (0, {"state_dir": str(node.state), "changed": True})
    assert node.load().held is None
    assert node.load().damage is None


def test_reset_takes_no_answer_for_an_interrupt(node: CliNode) -> None:
    node.hold(2)
    assert node.run("reset", stdin=Terminal("")).code == 130
    assert node.run("reset", stdin=Terminal("\n")).code == 1
    assert node.load().held == MINE


def test_reset_without_a_terminal_needs_yes(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("reset", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert "reset --yes" in answer.error["fix"]
    assert node.load().held == MINE


def test_reset_tells_what_it_would_do(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("reset", "--dry-run")
    assert (answer.code, answer.out) == (0, f"would forget {node.state}\n")
    assert node.run("reset", "--dry-run", "--yes", "--json").json["changed"] is False
    assert node.load().held == MINE


def test_reset_can_be_done_again(node: CliNode) -> None:
    node.hold(2)
    assert node.run("reset", "--yes").out == f"forgot {node.state}\n"
    assert node.run("reset", "--yes").out == f"nothing to forget in {node.state}\n"
    assert node.run("reset", "--yes", "--json").json == {"state_dir": str(node.state), "changed": False}
    assert node.run("bootstrap", "--role", "follower", "--json").json["outcome"] == "retrieved"


def test_reset_refuses_state_that_is_not_its_own(node: CliNode) -> None:
    node.hold(2)
    node.state.chmod(0o777)
    answer = node.run("reset", "--yes", "--json")
    assert (answer.code, answer.error["code"]) == (77, "unsafe-file")
    assert (node.state / "live").exists()


# --- demo ---------------------------------------------------------------------------------------


def test_demo_passes_its_options_on(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_demo(*, nodes: int, as_json: bool) -> int:
        asked.append((nodes, as_json))
        return 65

    monkeypatch.setattr("keydist.cli.demo.run_demo", run_demo)
    assert node.run("demo", "--nodes", "7", "--json").code == 65
    assert node.run("demo").code == 65
    assert asked == [(7, True), (5, False)]


# --- what may befall any command ----------------------------------------------------------------


def test_an_interrupt_ends_with_130(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("keydist.cli.keys.jwk_set", interrupt)
    node.hold()
    assert node.run("jwks").code == 130


def test_a_command_that_returns_nothing_has_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "_command", lambda: lambda **_options: None)
    assert application.run_app() == 0


def test_no_traceback_shows_values() -> None:
    assert app.pretty_exceptions_enable is False  # those of rich may show what variables hold


def test_a_damaged_node_tells_its_damage(node: CliNode) -> None:
    node.hold()
    (node.state / "live" / "jwks.json").write_text("{}")
    with pytest.raises(CorruptError):
        held_local(this_node(str(node.config)))


def keydist(node: CliNode, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which `keydist` is the command of this node."""
    return subprocess.run(
        ["bash", "-c", f'keydist() {{ {sys.executable} -m keydist "$@"; }}; {script}'],
        # Buffered, as for everybody: what is left in a buffer fails once more at the end.
        env=os.environ | {"KEYDIST_CONFIG": str(node.config), "PYTHONUNBUFFERED": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("keydist jwks >/dev/full", 73, "No space left on device"),
        ("keydist --version >/dev/full", 73, "No space left on device"),
        ("keydist key list >/dev/full", 73, "No space left on device"),
        ("keydist token generate --out - >/dev/full", 73, "No space left on device"),
        ("keydist status --offline --json >/dev/full", 73, "No space left on device"),
        ("keydist store backup no/such --json >/dev/full", 73, "No such file or directory"),
        ("keydist key list | true; exit ${PIPESTATUS[0]}", 73, None),
        ("keydist jwks | head -c 5 >/dev/null; exit ${PIPESTATUS[1]}", 0, None),
        ("keydist jwks >&-", 0, None),
        ("keydist status --offline --token-file no 2>/dev/full >/dev/null", 78, None),
        ("keydist status --offline --token-file no 2>&- >/dev/null", 78, None),
        ("keydist nonsense 2>&-", 2, None),
        ("keydist reset <&-", 2, "there is no terminal"),
        ("keydist token inspect --token-file - <&-", 78, "the token file is empty"),
    ],
)
def test_streams_that_are_full_or_closed(node: CliNode, script: str, code: int, told: str | None) -> None:
    node.hold(2)
    done = keydist(node, script)
    assert done.returncode == code, done.stderr
    if told is None:
        assert done.stderr == ""
    else:
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_an_encoding_lacks_goes_out_escaped(node: CliNode) -> None:
    node.hold(2)
    done = keydist(
        node, f"PYTHONIOENCODING=latin-1 keydist store backup {node.directory}/é€.jwe 2>/dev/null | od -c -w999"
    )
    assert done.returncode == 0
    assert r"351\u20ac.jwe" in done.stdout.replace(" ", "")
    assert (node.directory / "é€.jwe").exists()


def test_a_terminal_is_asked(node: CliNode) -> None:
    node.hold(2)
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "keydist", "reset"],
        env=os.environ | {"KEYDIST_CONFIG": str(node.config)},
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    threading.Timer(0.1, os.write, (parent, b"y\n")).start()
    out, err = process.communicate(timeout=30)
    os.close(parent)
    os.close(child)
    assert process.returncode == 0
    assert out == f"forgot {node.state}\n"
    assert "If no other node or backup has the key, it is lost. [y/N]:" in err
