"""`keydist doctor` in a cluster of three with the recommended accounts: as a leader, a follower, the operator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.accounts import OPERATOR
from integration.cluster import Cluster

NATS = ("store", "permissions", "excess", "bucket", "records", "audit", "replicas", "clock")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), leaders=["lead-1"], followers=["a"], sync_interval="always")
    with made:
        asyncio.run(made.make_buckets())
        made.node("lead-1").run()
        made.node("a").run()
        yield made


def examine(cluster: Cluster, name: str, *names: str, **environ: str) -> dict[str, dict[str, Any]]:
    """Return what each check finds on a node, by name; the exit code must fit."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("KEYDIST_")}
    command = [sys.executable, "-m", "keydist", "doctor", "--json", "--config", str(cluster.node(name).config)]
    done = subprocess.run(
        [*command, *(names or NATS)], env=own | environ, capture_output=True, text=True, check=False, timeout=50
    )
    assert "Traceback" not in done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert (done.returncode == 0) == all(one["ok"] for one in found.values())
    return found


def levels(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["level"] for name, one in found.items()}


def test_a_leader_sees_that_all_is_well_but_may_not_ask_about_the_trail(cluster: Cluster) -> None:
    found = examine(cluster, "lead-1")
    assert levels(found) == dict.fromkeys(NATS, "ok") | {"audit": "unseen"}, found
    assert "KV_keydist: 3 copies, all current" in found["replicas"]["detail"]


def test_a_follower_sees_what_it_may_and_no_more(cluster: Cluster) -> None:
    found = examine(cluster, "a")
    unseen = dict.fromkeys(("bucket", "records", "audit", "replicas", "clock"), "unseen")
    assert levels(found) == {"store": "ok", "permissions": "ok", "excess": "ok"} | unseen, found
    assert "not behind what the server stored" in found["clock"]["detail"]


def test_the_operator_sees_how_the_trail_is_kept(cluster: Cluster) -> None:
    as_operator = {"KEYDIST_NODE": OPERATOR, "KEYDIST_NATS_NKEY_FILE": cluster.nkey_file(OPERATOR)}
    found = examine(cluster, "lead-1", "bucket", "audit", "replicas", **as_operator)
    assert levels(found) == {"bucket": "ok", "audit": "ok", "replicas": "ok"}, found
    assert "keydist-audit: 3 copies" in found["replicas"]["detail"]


def test_with_one_server_down_the_store_answers_and_the_copies_are_told(cluster: Cluster) -> None:
    away = next(number for number in range(3) if number != cluster.stream_leader())
    cluster.kill(away)
    cluster.wait_ready()
    try:
        found = examine(cluster, "lead-1", "tls", "store", "replicas")
        while found["replicas"]["level"] != "warn":  # until the others have noticed, and elected who led
            found = examine(cluster, "lead-1", "tls", "store", "replicas")
        assert levels(found) == {"tls": "warn", "store": "ok", "replicas": "warn"}, found
        assert "offline" in found["replicas"]["detail"] or "behind" in found["replicas"]["detail"]
        assert cluster.urls[away] in found["tls"]["detail"]
    finally:
        cluster.start_server(away)


def test_too_few_copies_are_a_failure(tmp_path: Path) -> None:
    with Cluster(tmp_path, leaders=["lead-1"], followers=[]) as few:
        asyncio.run(few.make_buckets(replicas=1))
        few.node("lead-1").run()
        found = examine(few, "lead-1", "replicas")["replicas"]
    assert found["level"] == "fail"
    assert "KV_keydist-nodes" in found["detail"]
    assert "--replicas 3" in found["fix"]
