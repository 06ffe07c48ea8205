"""`keydist config`: check, show, schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keydist.adapters.config import json_schema
from tests.unit.cli_node import CliNode


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


def test_check_takes_the_file_in_every_way(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"ok": True, "cluster": "prod-eu1", "node": "node-a", "role": "leader"}
    file = str(node.config)
    assert node.run("config", "check", "--json").json == facts
    monkeypatch.delenv("KEYDIST_CONFIG")
    for arguments in ((file,), ("--config", file)):
        answer = node.run("config", "check", *arguments)
        assert (answer.code, answer.out, answer.err) == (0, "ok: node-a, leader of prod-eu1\n", "")
    twice = node.run("config", "check", file, "--config", file, "--json")
    assert (twice.code, twice.error["code"]) == (2, "usage")


WRONG: dict[str, tuple[str, str]] = {
    "mistyped": ("clutser: prod-eu1", "cluster"),
    "not YAML": ("cluster: [", "not YAML"),
    "no cluster": ("node: a", "cluster is missing"),
    "empty": ("", "is empty"),
    "huge": ("#" * 1_000_000, "too large"),
    "control characters in a name": ('"\\e]0;owned\\a": x', "unknown key"),
    "control characters in a value": ('cluster: "\\e]0;owned\\a"', "cluster"),
    "a secret": ("cluster: kdt1_0123456789_" + "a" * 52 + "_01234567", "looks like a secret"),
    "no such group": ("{cluster: x, group: no-such-group}", "group"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", ["check", "show"])
def test_a_configuration_that_is_refused(node: CliNode, command: str, content: str, message: str) -> None:
    node.config.write_text(content, encoding="utf-8")
    answer = node.run("config", command, "--json")
    if (command, message) == ("show", "group"):
        assert answer.code == 0  # whether the machine has it is asked where it is used
        return
    assert (answer.code, answer.error["family"]) == (78, "configuration")
    assert message in json.dumps(answer.error)
    assert answer.err.removesuffix("\n").isprintable()
    assert "aaaaaaaaaa" not in answer.err + answer.out


@pytest.mark.parametrize(("mode", "code"), [(0o400, 0), (0o444, 77)])
def test_check_looks_at_the_token_file_too(node: CliNode, mode: int, code: int) -> None:
    node.token_file.chmod(mode)
    assert node.run("config", "check").code == code
    node.hold_tokens()
    assert node.run("config", "check", "--json").error["code"] == "token"


def test_show_tells_where_each_value_comes_from(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYDIST_ROLE", "follower")
    answer = node.run("config", "show", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    assert facts["cluster"] == {"value": "prod-eu1", "source": "file"}
    assert facts["role"] == {"value": "follower", "source": "environment"}
    assert facts["heartbeat"] == {"value": 30, "source": "default"}
    assert facts["nats.servers"]["value"] == ["nats://127.0.0.1:4222"]
    lines = node.run("config", "show").out.splitlines()
    assert len(lines) == len(facts)
    shown = {line.split()[0]: line for line in lines}
    assert shown["issuer"].endswith(" -  (default)")
    assert shown["nats.servers"].endswith(" nats://127.0.0.1:4222  (default)")


def test_schema_describes_the_file(node: CliNode) -> None:
    answer = node.run("config", "schema")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == json.loads(json.dumps(json_schema()))
    assert node.run("config", "schema", "--json") == answer
