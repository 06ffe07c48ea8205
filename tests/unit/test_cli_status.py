"""`keydist status`: what it shows, and the exit code that the worst alarm gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.disk.records import format_notes
from keydist.cli import status
from keydist.cli.status import when
from keydist.core.local import Confirmation
from keydist.core.rotation import SCHEDULE
from keydist.errors import ConfigError
from keydist.services.status import Schedule
from tests.fakes.memory_store import Fault
from tests.material import DAY, LINEAGE, NOW, OTHER_TOKEN, PLACE, TOKEN, Change, chain, extend, hold, notes_of
from tests.unit.cli_node import CliNode

MINE = chain(2)[-1]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


def test_a_healthy_node(node: CliNode) -> None:
    held = node.hold(2)
    answer = node.run("status", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    keys = facts.pop("keys")
    assert [(key["kid"], key["alg"], key["state"]) for key in keys] == [
        (key.kid, key.alg, key.state.value) for key in held.keyset.keys
    ]
    assert not {"pkcs8", "spki", "k", "material"} & {name for key in keys for name in key}
    assert facts == {
        "node": "node-a",
        "role": "leader",
        "cluster": PLACE.cluster,
        "lineage": LINEAGE,
        "epoch": 2,
        "kid": held.keyset.active.kid,
        "token": TOKEN.token_id,
        "confirmed": None,
        "store": "the keyset of this node",
        "rotation": {"due": NOW + 30 * DAY, "why": "its time came", "opens": NOW + 900},
        "rehearsed": None,
        "alarms": [],
        "healthy": True,
    }


def test_a_healthy_node_for_people(node: CliNode) -> None:
    held = node.hold(2)
    answer = node.run("status")
    assert (answer.code, answer.err) == (0, "")
    due = "rotation   due 2027-02-14T08:00:00Z (in "
    for text in ("node-a, leader of prod-eu1", "epoch      2 of lineage", "healthy", "never", TOKEN.token_id, due):
        assert text in answer.out
    for key in held.keyset.keys:
        assert any(key.kid in line and key.state.value in line for line in answer.out.splitlines())


def test_when_the_epoch_was_confirmed(node: CliNode) -> None:
    node.hold()
    assert node.run("bootstrap", "--json").json["outcome"] == "unchanged"
    confirmed = node.run("status", "--json").json["confirmed"]
    assert isinstance(confirmed, int)
    assert re.search(r"^confirmed  [0-9]+ s ago$", node.run("status").out, re.MULTILINE)


def fork(node: CliNode) -> None:
    node.bucket.put(extend(chain(1)[-1], Change.ROTATE, name="other ").envelope)


STORES: dict[str, tuple[Callable[[CliNode], object], str, int]] = {
    "behind": (lambda node: node.bucket.put(extend(MINE, Change.ROTATE).envelope), "outdated", 75),
    "store deleted": (lambda node: node.bucket.delete(), "store-lost", 65),
    "store emptied": (lambda node: node.bucket.purge(), "store-lost", 65),
    "store wiped": (lambda node: node.bucket.wipe(), "store-lost", 65),
    "bucket missing": (lambda node: node.bucket.drop(), "store-lost", 65),
    "store rolled back": (lambda node: node.bucket.put(chain(1)[-1].envelope), "rollback", 65),
    "forked": (fork, "fork", 65),
    "another token": (
        lambda node: node.bucket.put(hold(MINE.keyset, token=OTHER_TOKEN).envelope),
        "wrong-token",
        77,
    ),
    "unreachable": (lambda node: node.faults.update(read=Fault.UNREACHABLE), "unreachable", 75),
    "silent": (lambda node: node.faults.update(read=Fault.TIMEOUT), "store-timeout", 75),
    "forbidden": (lambda node: node.faults.update(read=Fault.FORBIDDEN), "forbidden", 77),
    "refused": (lambda node: node.faults.update(read=Fault.REFUSED), "credentials-refused", 77),
}


@pytest.mark.parametrize(("befall", "code", "exit_code"), STORES.values(), ids=STORES)
def test_what_is_wrong_with_the_store_is_an_alarm(
    node: CliNode, befall: Callable[[CliNode], object], code: str, exit_code: int
) -> None:
    node.hold(2)
    befall(node)
    answer = node.run("status", "--json")
    assert answer.code == exit_code
    facts = answer.json
    (alarm,) = facts["alarms"]
    assert alarm["code"] == code
    assert (facts["epoch"], facts["healthy"]) == (2, False)
    assert answer.err.startswith(f"keydist: alarm [{code}]: ")
    assert "1 alarm(s)" in node.run("status").out


@pytest.mark.parametrize("arguments", [(), ("--offline",)])
@pytest.mark.parametrize(("ahead", "behind"), [(31 + 5, True), (20, False), (90_000_000_000, True)])
def test_a_confirmation_in_the_future(node: CliNode, ahead: int, behind: bool, arguments: tuple[str, ...]) -> None:  # noqa: FBT001
    held = node.hold(2)
    at = SystemClock().now() + ahead
    node.disk().confirm(Confirmation(epoch=2, digest=held.digest, at=at))
    answer = node.run("status", *arguments)
    shown = "in the future: check the clock" if behind else "0 s ago"
    assert re.search(rf"^confirmed  {shown}$", answer.out, re.MULTILINE)
    assert answer.code == (75 if behind else 0)
    facts = node.run("status", "--json", *arguments).json
    assert facts["confirmed"] == at
    assert [alarm["code"] for alarm in facts["alarms"]] == (["clock-behind"] if behind else [])


def held_since(node: CliNode, at: int, *, rehearsed: int | None = None) -> None:
    """Let a node have noted everything at a time, and have tried a backup out at another."""
    (node.state / "seen.json").write_bytes(format_notes(notes_of(MINE, at=at)._replace(rehearsed=rehearsed)))


def test_what_is_overdue_is_an_alarm_with_the_store_and_without(node: CliNode) -> None:
    node.hold(2)
    now = SystemClock().now()
    held_since(node, now - 60 * DAY, rehearsed=now - 31 * DAY)
    for arguments in ((), ("--offline",)):
        answer = node.run("status", "--json", *arguments)
        assert answer.code == 75
        assert [alarm["code"] for alarm in answer.json["alarms"]] == ["overdue"] * 3
        assert (answer.json["healthy"], answer.json["rehearsed"]) == (False, now - 31 * DAY)
    assert "(since 30 d)" in node.run("status").out
    node.configure(rehearse_every="0s")
    assert len(node.run("status", "--json").json["alarms"]) == 2


def test_a_leader_knows_a_rotation_to_be_late_before_a_follower_does(node: CliNode) -> None:
    node.hold(2)
    held_since(node, SystemClock().now() - 30 * DAY - 1000)

    def rotation_is_late() -> bool:
        told = node.run("status", "--offline", "--json").json["alarms"]
        return any(alarm["message"].startswith("a rotation is overdue") for alarm in told)

    node.configure(role="leader")
    assert rotation_is_late()
    node.configure(role="follower")
    assert not rotation_is_late(), "it allows for a leader that waits anew"


ROTATIONS: dict[str, tuple[Schedule, str]] = {
    "by schedule": (Schedule(due=NOW + 172_800, why=SCHEDULE, opens=NOW), "due 2027-01-17T08:00:00Z (in 2 d)"),
    "none": (Schedule(due=None, why=None, opens=NOW), "none by schedule"),
    "a new kind, and not yet": (
        Schedule(due=NOW - 60, why="it signed", opens=NOW + 900),
        "due 2027-01-15T07:59:00Z (since 60 s), because it signed; not before 2027-01-15T08:15:00Z",
    ),
}


@pytest.mark.parametrize(("rotation", "text"), ROTATIONS.values(), ids=ROTATIONS)
def test_when_a_rotation_is_due_for_people(rotation: Schedule, text: str) -> None:
    assert when(rotation, now=NOW) == text


def test_a_token_file_without_a_name_is_usage(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("status", "--token-file", "", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")


def test_offline_asks_nobody(node: CliNode) -> None:
    node.hold(2)
    node.bucket.drop()
    answer = node.run("status", "--offline", "--json")
    assert (answer.code, answer.json["store"], node.stores) == (0, None, [])
    assert "not asked" in node.run("status", "--offline").out


def test_a_node_without_its_token_cannot_follow(node: CliNode) -> None:
    node.hold(2)
    node.hold_tokens()
    answer = node.run("status", "--json")
    assert (answer.code, answer.json["alarms"][0]["code"], answer.json["store"]) == (78, "token", None)
    node.hold_tokens(TOKEN)
    node.token_file.chmod(0o444)
    assert node.run("status", "--json").code == 77


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--offline",)])
def test_a_node_without_a_keyset(node: CliNode, arguments: tuple[str, ...]) -> None:
    answer = node.run("status", *arguments)
    assert answer.code == 75
    assert "keydist bootstrap" in answer.err
    if "--json" in arguments:
        assert answer.error["code"] == "not-yet"
        assert answer.error["family"] == "transient"
    else:
        assert answer.out == ""


def test_a_damaged_node_tells_the_damage_first(node: CliNode) -> None:
    node.hold(2)
    (node.state / "live" / "jwks.json").write_text("{}")
    answer = node.run("status", "--json")
    facts = answer.json
    assert answer.code == 65
    assert [alarm["code"] for alarm in facts["alarms"]] == ["corrupt", "outdated"]
    assert (facts["epoch"], facts["kid"], facts["lineage"], facts["token"]) == (None, None, None, None)
    assert (facts["keys"], facts["healthy"]) == ([], False)
    plain = node.run("status", "--offline")
    assert (plain.code, plain.out) == (65, "")
    assert "alarm [corrupt]" in plain.err


def test_a_missing_floor_is_an_alarm(node: CliNode) -> None:
    node.hold(2)
    (node.state / "floor.json").unlink()
    answer = node.run("status", "--json")
    assert (answer.code, answer.json["alarms"][0]["code"]) == (65, "floor-rebuilt")


def test_state_that_others_can_use_is_refused(node: CliNode) -> None:
    node.hold(2)
    node.state.chmod(0o777)
    answer = node.run("status", "--json")
    assert (answer.code, answer.error["code"]) == (77, "unsafe-file")


def test_another_lineage_than_the_configured_one(node: CliNode) -> None:
    node.hold(2)
    node.configure(lineage="0" * 32)
    answer = node.run("status", "--json")
    assert (answer.code, answer.error["code"]) == (65, "fork")


def test_watching_shows_it_again_until_it_is_interrupted(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.hold(2)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        node.bucket.delete()
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "_pause", pause)
    answer = node.run("status", "--watch")
    assert answer.code == 130
    assert answer.out.count("health ") == 3
    assert (answer.out.count("healthy"), answer.out.count("1 alarm(s)")) == (1, 2)
    assert pauses == [2.0, 2.0, 2.0]


def test_watching_ends_where_the_configuration_is_refused(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.hold(2)
    monkeypatch.setattr(status, "_pause", lambda _seconds: node.config.write_text("cluster: [", encoding="utf-8"))
    assert node.run("status", "--watch").code == ConfigError.exit_code
