"""`keydist policy show | set`: one truth for the cluster, whose rules hold on the command line too."""

from __future__ import annotations

from pathlib import Path

import pytest

from keydist.core.policy import MEMBERS, Policy
from keydist.errors import StoreTimeoutError
from tests.fakes.memory_store import Fault
from tests.material import Change, chain, extend
from tests.unit.cli_operator import CliOperator

MINE = chain(2)[-1]
LATER = extend(MINE, Change.ROTATE)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliOperator:
    made = CliOperator(tmp_path, monkeypatch, capsys)
    made.hold_for(*chain(2))
    return made


def test_the_policy_is_shown(node: CliOperator) -> None:
    assert node.run("policy", "show", "--json").json == Policy().as_json()
    lines = node.run("policy", "show").out.splitlines()
    assert [line.split()[0] for line in lines] == list(MEMBERS)
    assert "rotate_every         30d" in lines
    assert "max_tokens_per_key   0" in lines
    assert node.stores == []


def test_a_node_without_a_keyset_has_no_policy(node: CliOperator) -> None:
    node.run("reset", "--yes")
    assert node.refuse("policy", "show")["code"] == "not-yet"


def test_several_are_set_in_one_epoch(node: CliOperator) -> None:
    arguments = ("policy", "set", "rotate_every=14d", "max_lifetime=2d", "max_tokens_per_key=7")
    new = Policy(rotate_every=14 * 86_400, max_lifetime=2 * 86_400, max_tokens_per_key=7)
    plan = node.dry(*arguments, "--json")
    assert (plan.code, plan.json) == (0, new.as_json() | {"epoch": 3, "behind": None, "changed": False})
    shown = node.dry(*arguments)
    assert "rotate_every         14d  (was 30d)" in shown.out
    assert "max_tokens_per_key   7  (was 0)" in shown.out
    assert "that would be epoch 3; nothing was changed" in shown.err
    answer = node.run(*arguments)
    assert answer.code == 0
    assert "epoch 3 carries it to every node" in answer.err
    assert "JWTs of the longer lifetime are minted 15m after a node has this epoch" in answer.err
    assert node.held_now().keyset.policy == new
    assert node.run("policy", "show", "--json").json == new.as_json()


def test_the_same_again_changes_nothing(node: CliOperator) -> None:
    assert node.run("policy", "set", "leeway=2m", "--json").json["changed"] is True
    writes = node.bucket.writes
    answer = node.run("policy", "set", "leeway=120", "--json")
    assert (answer.json["changed"], answer.json["epoch"], node.bucket.writes) == (False, 3, writes)
    assert "the policy of epoch 3 says so already" in node.run("policy", "set", "leeway=120s").err


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "lowered": (("max_lifetime=1h",), "keydist policy show"),
    "too short a propagation": (("freshness=20m",), "in one command"),
    "too short a leeway": (("skew=31s",), "in one command"),
    "mistyped": (("rotate_evry=1d",), "did you mean rotate_every?"),
    "unknown": (("colour=blue",), "keydist policy show"),
    "no value": (("rotate_every",), "rotate_every=30d"),
    "no duration": (("rotate_every=often",), "write it as"),
    "empty": (("rotate_every=",), "write it as"),
    "a duration for a count": (("max_tokens_per_key=1d",), "max_tokens_per_key=0"),
    "a huge count": (("max_tokens_per_key=" + "9" * 16,), "max_tokens_per_key=0"),
    "twice": (("leeway=2m", "leeway=3m"), "leave one"),
}


@pytest.mark.parametrize(("settings", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_2_and_says_how_it_goes(node: CliOperator, settings: tuple[str, ...], fix: str) -> None:
    error = node.refuse("policy", "set", *settings)
    assert (error["exit"], error["code"]) == ("2", "usage")
    assert fix in error["fix"]
    assert node.held_now() == MINE


def test_a_follower_and_a_silent_store_change_nothing(node: CliOperator) -> None:
    node.faults["read"] = Fault.TIMEOUT
    assert node.refuse("policy", "set", "leeway=2m")["code"] == StoreTimeoutError.code
    node.configure(role="follower")
    assert node.refuse("policy", "set", "leeway=2m")["exit"] == "77"


def test_a_node_that_is_behind_says_so_and_then_follows(node: CliOperator) -> None:
    node.bucket.put(LATER.envelope)
    answer = node.dry("policy", "set", "leeway=2m")
    assert "this node has epoch 2, the store 3: the command takes that first" in answer.err
    assert node.run("policy", "set", "leeway=2m", "--json").json["epoch"] == 4
    assert node.held_now().keyset.policy.leeway == 120
