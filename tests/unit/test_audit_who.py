"""Who does something on this machine, for the audit trail: what the machine tells, and nothing that was typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from keydist.adapters.trail import who
from keydist.adapters.trail.who import program, who_runs
from keydist.core.jwk import public_jwk
from keydist.core.strict import serialise
from keydist.services.read_trail import kept_keys
from tests.material import sig_key


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["keydist", "key", "revoke", "KID", "--reason", "x"], "key revoke"),
        (["keydist", "agent", "--config", "x"], "agent"),
        (["keydist", "bootstrap", "--token-file", "secret"], "bootstrap"),
        (["keydist", "--version"], "python"),
        (["keydist", "token", "kdt1_0123456789_a"], "token"),
        (["app.py"], "python"),
        ([], "python"),
    ],
    ids=str,
)
def test_of_a_command_line_its_noun_and_verb_are_told(argv: list[str], said: str) -> None:
    assert program(argv) == said


def test_who_runs_it_and_who_became_that_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["keydist", "key", "revoke"])
    monkeypatch.setattr(who, "_login", lambda: "1000")
    found = dict(who_runs({"SUDO_USER": "alice"}, nats_user=lambda: "UABC"))
    assert found | {"user": ""} == {
        "uid": os.getuid(),
        "program": "key revoke",
        "user": "",
        "sudo": "alice",
        "login": "1000",
        "nats": "UABC",
    }


def test_what_is_not_known_or_strange_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd  # noqa: PLC0415

    def nobody(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(who, "_login", lambda: "")
    assert who_runs({"SUDO_USER": "a\nb"}, nats_user=lambda: None).keys() == {"uid", "program"}


@pytest.mark.parametrize(("text", "said"), [("1000", "1000"), ("4294967295", ""), (None, "")])
def test_who_began_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    file = tmp_path / "loginuid"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(who, "_LOGIN", str(file))
    assert who._login() == said


class Kept:
    """What a node keeps of one key."""

    def __init__(self, raw: bytes | None) -> None:
        self._raw = raw

    def public_jwk(self, kid: str) -> bytes | None:
        return self._raw

    def was_revoked(self, kid: str) -> bool:
        return False


def test_a_key_that_is_missing_or_altered_is_not_at_hand() -> None:
    key = sig_key("x")
    raw = serialise(public_jwk(key)) + b"\n"
    assert kept_keys(Kept(None))(key.kid) is None
    assert kept_keys(Kept(raw.replace(b"sig", b"enc")))(key.kid) is None
    found = kept_keys(Kept(raw))(key.kid)
    assert found is not None
    assert found.alg == "EdDSA"
