"""`keydist token`: made once, never overwritten, never shown but where it is asked for."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from keydist.cli import token as command
from keydist.core.token import format_token, parse_token
from tests.material import OTHER_TOKEN, TOKEN
from tests.unit.cli_node import CliNode


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    monkeypatch.chdir(tmp_path)
    found = CliNode(tmp_path, monkeypatch, capsys)
    found.hold_tokens()
    return found


def secret_of(file: Path) -> str:
    return file.read_text(encoding="ascii").split("_")[2]


# --- generate -----------------------------------------------------------------------------------


def test_generate_writes_a_token_where_the_configuration_names_it(node: CliNode) -> None:
    answer = node.run("token", "generate")
    assert answer.code == 0
    assert stat.S_IMODE(node.token_file.stat().st_mode) == 0o400
    token = parse_token(node.token_file.read_text(encoding="ascii").removesuffix("\n"))
    assert answer.out == f"{token.token_id}\n"
    assert str(node.token_file) in answer.err
    assert secret_of(node.token_file) not in answer.out + answer.err


def test_generate_never_overwrites(node: CliNode) -> None:
    assert node.run("token", "generate").code == 0
    before = node.token_file.read_bytes()
    answer = node.run("token", "generate", "--json")
    assert (answer.code, answer.error["family"]) == (78, "configuration")
    assert node.token_file.read_bytes() == before


def test_generate_for_programs(node: CliNode) -> None:
    file = node.directory / "elsewhere"
    answer = node.run("token", "generate", "--out", str(file), "--json")
    token_id = parse_token(file.read_text(encoding="ascii").removesuffix("\n")).token_id
    assert answer.json == {"id": token_id, "file": str(file), "changed": True}
    assert not node.token_file.exists()
    assert secret_of(file) not in answer.out + answer.err


def test_generate_prints_the_token_only_where_it_is_asked_to(node: CliNode) -> None:
    answer = node.run("token", "generate", "--out", "-")
    token = parse_token(answer.out.removesuffix("\n"))
    assert answer.code == 0
    assert answer.err == f"keydist: new token {token.token_id}\n"
    assert not node.token_file.exists()
    refused = node.run("token", "generate", "--out", "-", "--json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert "kdt1_" not in refused.out + refused.err


def test_two_tokens_have_nothing_in_common(node: CliNode) -> None:
    one, other = (parse_token(node.run("token", "generate", "--out", "-").out.strip()) for _ in range(2))
    assert one.token_id != other.token_id
    assert one.secret != other.secret


def test_the_environment_comes_before_the_file(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYDIST_TOKEN_FILE", str(node.directory / "named"))
    assert node.run("token", "generate", "--json").json["file"] == str(node.directory / "named")
    assert node.run("token", "inspect", "--json").json["file"] == str(node.directory / "named")
    assert not node.token_file.exists()


def test_a_machine_without_any_configuration_has_a_place_of_its_own(
    node: CliNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEYDIST_CONFIG")
    monkeypatch.setattr("keydist.adapters.config_layers.DEFAULT_PATH", str(node.directory / "none.yaml"))
    monkeypatch.setattr(command, "TOKEN_FILE", str(node.directory / "default"))
    monkeypatch.setattr(command, "_setting", lambda _config: None)
    assert node.run("token", "generate", "--json").json["file"] == str(node.directory / "default")
    assert node.run("token", "generate", "--config", str(node.config)).code == 78  # it is there by now


def test_the_token_stands_where_the_configuration_says_by_default(node: CliNode) -> None:
    rows = node.run("config", "show", "--json").json
    node.config.write_text("cluster: c\n", encoding="utf-8")
    assert rows["token_file"]["source"] == "file"
    assert node.run("config", "show", "--json").json["token_file"] == {
        "value": "/etc/keydist/token",
        "source": "default",
    }


@pytest.mark.parametrize("content", ["cluster: [", "clutser: x", ""])
def test_a_configuration_that_is_wrong_is_not_passed_over(node: CliNode, content: str) -> None:
    node.config.write_text(content, encoding="utf-8")
    for arguments in (("generate",), ("inspect",)):
        answer = node.run("token", *arguments, "--json")
        assert (answer.code, answer.error["code"]) == (78, "config")
    assert not node.token_file.exists()


@pytest.mark.parametrize(("out", "code"), [("/nowhere/token", 73), ("", 2), (".", 78)])
def test_generate_where_no_file_can_be(node: CliNode, out: str, code: int) -> None:
    answer = node.run("token", "generate", "--out", out, "--json")
    assert answer.code == code
    assert answer.error["message"]


# --- inspect ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [(TOKEN,), (TOKEN, OTHER_TOKEN)], ids=["one line", "two lines"])
def test_inspect_shows_ids(node: CliNode, tokens: tuple[object, ...]) -> None:
    node.hold_tokens(*(token for token in (TOKEN, OTHER_TOKEN) if token in tokens))
    ids = [token.token_id for token in (TOKEN, OTHER_TOKEN) if token in tokens]
    answer = node.run("token", "inspect", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {"id": ids[0], "ids": ids, "file": str(node.token_file)}
    assert node.run("token", "inspect").out.splitlines() == ids
    assert node.run("token", "inspect", "--token-file", str(node.token_file), "--config", "missing").code == 0
    nameless = node.run("token", "inspect", "--token-file=", "--json")
    assert (nameless.code, nameless.error["code"]) == (2, "usage")


TEXT = format_token(TOKEN)
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty"),
    "only a newline": ("\n", "is empty"),
    "no token": ("hunter2hunter2\n", "not a keydist token"),
    "cut": (TEXT[:-3], "wrong length"),
    "one letter altered": (TEXT[:30] + ("a" if TEXT[30] != "a" else "b") + TEXT[31:], "checksum does not match"),
    "upper case": (TEXT[:16] + TEXT[16:68].upper() + TEXT[68:], "not base32"),
    "a space behind": (f"{TEXT} \n", "wrong length"),
    "three lines": (f"{TEXT}\n" * 3, "too many lines"),
    "the same twice": (f"{TEXT}\n{TEXT}\n", "one token id"),
    "not ASCII": ("é" * 10, "not ASCII"),
    "huge": ("a" * 5000, "too large"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_inspect_says_what_is_wrong_and_shows_nothing_of_it(node: CliNode, content: str, message: str) -> None:
    node.token_file.write_text(content, encoding="utf-8")
    node.token_file.chmod(0o600)
    answer = node.run("token", "inspect", "--json")
    assert (answer.code, answer.error["code"]) == (78, "token")
    assert message in answer.error["message"]
    for shown in ("hunter2", TEXT[20:40]):
        assert shown not in answer.out + answer.err
    assert node.run("config", "check").code == 78


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644, 0o420])
def test_inspect_refuses_a_file_that_others_can_use(node: CliNode, mode: int) -> None:
    node.hold_tokens(TOKEN)
    node.token_file.chmod(mode)
    answer = node.run("token", "inspect", "--json")
    assert (answer.code, answer.error["code"]) == (77, "unsafe-file")
    assert answer.error["found"] == f"mode {mode:04o}"


def test_inspect_where_no_token_is(node: CliNode) -> None:
    answer = node.run("token", "inspect", "--json")
    assert (answer.code, answer.error["code"]) == (78, "token")
    assert "token generate" in answer.error["fix"]
    node.configure(token_file=None)
    answer = node.run("token", "inspect", "--json")
    assert (answer.code, answer.error["code"]) == (78, "token")
    os.mkfifo(node.directory / "fifo")
    answer = node.run("token", "inspect", "--token-file", str(node.directory / "fifo"), "--json")
    assert (answer.code, answer.error["code"]) == (77, "unsafe-file")


def test_inspect_reads_standard_input(node: CliNode) -> None:
    given = io.TextIOWrapper(io.BytesIO(f"{TEXT}\n".encode()))
    answer = node.run("token", "inspect", "--token-file", "-", "--json", stdin=given)
    assert answer.json == {"id": TOKEN.token_id, "ids": [TOKEN.token_id], "file": "-"}
