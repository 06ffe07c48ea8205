"""Who may mint what: each part of a rule, and who needs none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keydist.adapters.config_serve import MintRule, Rule
from keydist.adapters.http.guard import Peer
from keydist.errors import ConfigError, NotAllowedError
from keydist.serving.policy import Asked, MintPolicy
from tests.unit.serving_node import ISSUER, ServingNode
from tests.unit.test_http_guard import reachable

OWN, DAEMON, NOBODY = 4242, 1, 65_534
RULE = Rule(
    users=("daemon",),
    groups=("bin",),
    mint=MintRule(("orders-*", "cron"), ("orders", "stock-*"), ("https://other/*",), 600),
)
ASKED = Asked("orders-1", ("orders",), None, 600)


def peer(uid: int, *gids: int) -> Peer:
    return Peer(pid=1, uid=uid, gids=frozenset(gids))


def allowed(who: Peer, asked: Asked = ASKED, *rules: Rule) -> bool:
    policy = MintPolicy(rules or (RULE,), own_uid=OWN, issuer=ISSUER)
    try:
        policy.check(who, asked)
    except NotAllowedError as exc:
        return f"uid {who.uid}" not in exc.found  # a refusal says who was refused
    return True


@pytest.mark.parametrize(
    ("who", "may"),
    [
        pytest.param(peer(0), True, id="root"),
        pytest.param(peer(OWN), True, id="the agent's own user"),
        pytest.param(peer(DAEMON), True, id="a user that is named"),
        pytest.param(peer(NOBODY, 2), True, id="a group that is named"),
        pytest.param(peer(NOBODY, 7, 2), True, id="a supplementary group"),
        pytest.param(peer(NOBODY, 1), False, id="a group with the number of a user"),
        pytest.param(peer(2), False, id="a user with the number of a group"),
        pytest.param(peer(NOBODY), False, id="anybody else"),
    ],
)
def test_who_may_mint(who: Peer, may: bool) -> None:  # noqa: FBT001 - a case of the table
    assert allowed(who) is may


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        pytest.param(ASKED._replace(subject="orders-"), True, id="only what stands before the star"),
        pytest.param(ASKED._replace(subject="orders"), False, id="less than what stands before the star"),
        pytest.param(ASKED._replace(subject="my-orders-1"), False, id="something before it"),
        pytest.param(ASKED._replace(subject="cron"), True, id="an exact subject"),
        pytest.param(ASKED._replace(subject="cron2"), False, id="more than an exact subject"),
        pytest.param(ASKED._replace(subject="*"), False, id="a star"),
        pytest.param(ASKED._replace(audience=("orders", "stock-a")), True, id="audiences that all fit"),
        pytest.param(ASKED._replace(audience=("orders", "web")), False, id="audiences of which one does not fit"),
        pytest.param(ASKED._replace(issuer=ISSUER), True, id="the configured issuer"),
        pytest.param(ASKED._replace(issuer="https://other/1"), True, id="an issuer that is allowed"),
        pytest.param(ASKED._replace(issuer="https://else"), False, id="another issuer"),
        pytest.param(ASKED._replace(lifetime=601), False, id="too long a lifetime"),
    ],
)
def test_what_may_be_minted(asked: Asked, may: bool) -> None:  # noqa: FBT001
    assert allowed(peer(DAEMON), asked) is may
    assert allowed(peer(0), asked)


def test_one_rule_must_allow_all_of_it() -> None:
    a = Rule(("daemon",), (), MintRule(("a",), ("x",)))
    b = Rule(("daemon",), (), MintRule(("b",), ("y",)))
    assert allowed(peer(DAEMON), Asked("a", ("x",), None, 1), a, b)
    assert allowed(peer(DAEMON), Asked("b", ("y",), None, 1), a, b)
    assert not allowed(peer(DAEMON), Asked("a", ("y",), None, 1), a, b)


def test_without_rules_only_root_and_the_agent_mint() -> None:
    policy = MintPolicy((), own_uid=OWN, issuer=None)
    for uid in (0, OWN):
        policy.check(peer(uid), ASKED)
    with pytest.raises(NotAllowedError, match="may not mint here"):
        policy.check(peer(DAEMON), ASKED)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (RULE._replace(users=("no-such-user",)), "user"),
        (RULE._replace(groups=("no-such-group",)), "group"),
    ],
    ids=["user", "group"],
)
def test_whom_this_machine_does_not_know_is_refused_in_the_configuration(rule: Rule, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"socket.allow names a {what} that .*no-such-{what}"):
        MintPolicy((rule,), own_uid=OWN, issuer=None)


AS_ANOTHER = """
import http.client, json, os, socket, sys
path, uid, gids, body = sys.argv[1:]
os.setgroups([int(gid) for gid in gids.split(",") if gid])
os.setgid(65534)
os.setuid(int(uid))
for call in ("/v1/mint", "/v1/status"):
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request("POST" if "mint" in call else "GET", call, body if "mint" in call else None)
    answer = connection.getresponse()
    print(answer.status, json.loads(answer.read()).get("error", {}).get("code", "-"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's name: needs root")
@pytest.mark.parametrize(
    ("uid", "gids", "subject", "answer"),
    [
        pytest.param(DAEMON, "", "orders-1", "200 -", id="a user that is named"),
        pytest.param(NOBODY, "2", "orders-1", "200 -", id="a supplementary group that is named"),
        pytest.param(DAEMON, "", "web", "403 not-allowed", id="not that subject"),
        pytest.param(NOBODY, "", "orders-1", "403 not-allowed", id="a user that no rule names"),
    ],
)
def test_other_users_are_known_by_what_the_kernel_says(
    tmp_path: Path, uid: int, gids: str, subject: str, answer: str
) -> None:
    body = f'{{"subject":"{subject}","audience":"orders","lifetime":60}}'
    with ServingNode(reachable(tmp_path), rules=(RULE,), own_uid=OWN) as node:
        arguments = [sys.executable, "-c", AS_ANOTHER, node.path, str(uid), gids, body]
        said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [answer, "200 -"]
