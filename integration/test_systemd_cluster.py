"""Three nodes and a NATS server, each a machine with a real systemd: what comes late heals, what fails comes back.

`KEYDIST_TEST_POWER_FAILURES` is how many power failures there are (3), `KEYDIST_TEST_SEED` where and when.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import Final

import pytest

from integration.machine import skip_unless_possible
from integration.machine_cluster import FOLLOWERS, LEADER, NATS, MachineCluster, switch_on
from integration.units import STATE

_FAILURES: Final = int(os.environ.get("KEYDIST_TEST_POWER_FAILURES", "3"))
_SEED: Final = os.environ.get("KEYDIST_TEST_SEED", "1")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineCluster]:
    skip_unless_possible()
    with MachineCluster(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture
def kid(cluster: MachineCluster) -> str:
    """The key of a cluster in which everything runs."""
    if not any(node.machine.is_on for node in cluster.nodes.values()):
        cluster.start_anew()
        for name in cluster.nodes:
            cluster.bring_token(name)
    if not cluster.nats.is_on:
        cluster.bring_nats()
    return cluster.until_whole()


@pytest.mark.parametrize(
    "order",
    [
        pytest.param((*FOLLOWERS, LEADER, NATS), id="the tokens first"),
        pytest.param((NATS, *FOLLOWERS, LEADER), id="NATS first"),
    ],
)
def test_switched_on_without_token_and_nats_all_heals_as_they_come(
    order: tuple[str, ...], cluster: MachineCluster
) -> None:
    cluster.start_anew()
    nodes = cluster.nodes.values()
    for node in nodes:
        node.until_says("an empty token")
    for comes in order:
        for node in nodes:
            assert (node.state("web"), node.state("keydist-ready.target")) == ("inactive", "inactive")
            assert node.state("keydist") != "active"
        cluster.bring_nats() if comes == NATS else cluster.bring_token(comes)
    cluster.until_whole()
    for node in nodes:
        assert node.machine.show("keydist", "NRestarts")["NRestarts"] == "0"
        node.until_all_started()


def test_who_needs_the_key_outlives_whatever_happens_to_the_agent(cluster: MachineCluster, kid: str) -> None:
    node = cluster.nodes[FOLLOWERS[0]]
    machine, web, agent = node.machine, node.pid("web"), node.pid("keydist")
    machine.run("systemctl", "restart", "keydist")
    assert node.pid("keydist") not in (0, agent)
    machine.run("systemctl", "kill", "--signal=KILL", "keydist")
    machine.until(lambda: machine.show("keydist", "NRestarts")["NRestarts"] == "1", "the agent to be started again")
    node.until_active("keydist")
    machine.run("systemctl", "reload", "keydist")
    machine.run("systemctl", "stop", "keydist")
    assert node.state("keydist") == "inactive"
    assert (node.state("keydist-ready.target"), node.state("web"), node.pid("web")) == ("active", "active", web)
    machine.run("systemctl", "restart", "web")  # it needs the key, and not the agent
    assert (node.state("web"), node.kid) == ("active", kid)
    machine.run("systemctl", "start", "keydist")


def test_nodes_reboot_without_nats_and_it_is_followed_again_when_it_is_back(cluster: MachineCluster, kid: str) -> None:
    cluster.nats.switch_off()
    for node in cluster.nodes.values():
        node.machine.switch_off()
    switch_on(node.machine for node in cluster.nodes.values())
    assert cluster.until_whole() == kid
    cluster.nats.switch_on()
    for node in cluster.nodes.values():
        node.until_says("healthy")


@pytest.mark.timeout(900)
def test_power_fails_anywhere_at_any_moment_and_every_node_is_back_with_its_key(
    cluster: MachineCluster, kid: str
) -> None:
    """Also where power fails again before a machine is up; it prints how long an agent takes to be ready."""
    moments, took = random.Random(_SEED), []
    for _ in range(_FAILURES):
        name = moments.choice(list(cluster.machines))
        time.sleep(moments.uniform(0, 2))  # any moment: while it boots, starts the agent, or works
        cluster.machines[name].lose_power()
        cluster.machines[name].switch_on(wait=False)
        if moments.random() < 0.5:  # every other time the next one comes before it is ready
            continue
        assert cluster.until_whole() == kid, f"seed {_SEED}"
        if name != NATS:
            took.append(cluster.nodes[name].ready_after())
    assert cluster.until_whole() == kid, f"seed {_SEED}"
    _print("from switching on to ready, with the key on disk", took)


def test_a_machine_with_a_new_disk_has_the_key_soon(cluster: MachineCluster, kid: str) -> None:
    """It prints how soon."""
    took, node = [], cluster.nodes[FOLLOWERS[0]]
    for _ in range(max(2, _FAILURES // 2)):
        node.machine.lose_power()
        node.machine.remove(STATE)
        node.machine.switch_on()
        node.until_active("keydist", "web")
        assert node.kid == kid
        took.append(node.key_after())
    _print("from switching on to the key on a new disk", took)


def _print(what: str, took: list[float]) -> None:
    if took:
        print(
            f"{what}: median {statistics.median(took):.2f} s, at most {max(took):.2f} s, of {len(took)}; seed {_SEED}"
        )
