"""nats-server is upgraded under a fleet that works: server by server, from 2.10 over 2.12 to what is installed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from integration.accounts import OPERATOR
from integration.cluster import Cluster
from integration.fleet import Fleet
from integration.nats_versions import EARLIER, binary
from integration.promises import SETTINGS, Promises
from keydist.errors import ConfigError

SERVERS: Final = range(3)
_LATE: Final = 60.0


def versions(cluster: Cluster) -> set[str]:
    """Return which versions run, without the last number."""
    return {str(cluster.monitor(number, "varz")["version"]).rpartition(".")[0] for number in SERVERS}


@pytest.mark.parametrize("version", EARLIER)
def test_servers_that_are_too_old_for_a_region_are_told(version: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, leaders=["lead-1"], followers=[], servers=1)
    cluster.use(0, binary(version))
    with cluster:
        operator = cluster.node(OPERATOR, role="leader")
        operator.configure()
        code, told = operator.start_command("store", "init", "--mirror", "eu").end()
    assert code == ConfigError.exit_code
    assert "consumer" in str(told), "what the server does not know"


@pytest.mark.timeout(300)
def test_a_rolling_upgrade_is_noticed_by_nobody(tmp_path: Path) -> None:
    first, *others = EARLIER
    cluster = Cluster(tmp_path, leaders=["lead-1", "lead-2"], followers=["f-1", "f-2", "f-3"])
    for number in SERVERS:
        cluster.use(number, binary(first))
    with cluster:
        asyncio.run(cluster.make_buckets())
        with Fleet(cluster, settings=SETTINGS) as fleet:
            fleet.start(["lead-1"])
            fleet.start()
            with Promises(fleet) as promises:
                assert versions(cluster) == {first}
                promises.wait_rotation(_LATE)
                for version in (*others, None):
                    for number in SERVERS:
                        cluster.stop_server(number)
                        cluster.use(number, None if version is None else binary(version))
                        cluster.start_server(number)
                        cluster.wait_healthy(number)  # the next one only then: docs/nats.md
                    assert len(versions(cluster)) == 1
                    promises.wait_rotation(_LATE)
                assert versions(cluster).isdisjoint(EARLIER)
                fleet.wait_same(_LATE)
                fleet.wait_quiet(_LATE)
            promises.check()
            print(promises.take())
