"""`keydist jwt verify --in-audit`: only what a node recorded when it minted it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keydist import wiring
from keydist.core.accept import Held
from keydist.core.audit import Event, Link, Place, What, mint_of
from keydist.core.audit_record import compose
from keydist.core.jws import parse_compact
from keydist.errors import UnreachableError
from tests.fakes.memory_trail import MemoryTrail, MemoryTrailStream
from tests.material import NOW, PLACE, first
from tests.unit.audit_material import CHAIN, WHO, opening
from tests.unit.jwt_node import ISSUER, JwtNode, key_of, signed

ELSEWHERE = Place(cluster=PLACE.cluster, node="node-z")
OPTIONS = ("--iss", ISSUER, "--in-audit", "--json")


class Recording(JwtNode):
    """A node beside a trail that is in memory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(directory, monkeypatch, capsys)
        self.trail = MemoryTrail()
        self.stream = MemoryTrailStream(self.trail)
        monkeypatch.setattr(wiring, "open_trail", opening(self.stream, self._open_store))

    def record(
        self,
        jwt: str,
        *,
        by: Place = ELSEWHERE,
        altered: bool = False,
        held: Held | None = None,
        uid: int | None = None,
    ) -> None:
        """Let a node have recorded a JWT."""
        parsed = parse_compact(jwt)
        minted = mint_of(jwt, json.loads(parsed.payload), parsed.header.kid, uid=uid)
        event = Event(what=What.MINTED, held=held or self.held, minted=(minted,))
        raw = compose(event, by, Link(chain=CHAIN), at=NOW, who=WHO)
        self.trail.put(by.node, raw.replace(b'"alice"', b'"mallory"') if altered else raw)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recording:
    return Recording(tmp_path, monkeypatch, capsys)


def test_what_another_node_recorded_is_valid(node: Recording) -> None:
    jwt = node.jwt
    node.record(jwt)
    answer = node.verify(jwt, *OPTIONS)
    assert (answer.code, answer.json["sub"], answer.err) == (0, "alice", "")


@pytest.mark.parametrize(("uid", "said"), [(4242, "node node-z, for uid 4242; recorded "), (None, "node node-z; ")])
def test_people_are_told_who_had_it_minted(node: Recording, uid: int | None, said: str) -> None:
    node.record(node.jwt, uid=uid)
    answer = node.verify(node.jwt, *OPTIONS[:-1])
    assert (answer.code, answer.json["sub"]) == (0, "alice")
    assert said in answer.err
    assert node.verify(node.jwt, *OPTIONS[:-1], "--quiet").err == ""


def test_what_nobody_recorded_is_invalid_although_its_signature_is_right(node: Recording) -> None:
    jwt = node.jwt
    node.record(signed(key_of(node.held), sub="bob"))
    assert node.verify(jwt, "--iss", ISSUER).code == 0
    answer = node.verify(jwt, *OPTIONS)
    assert answer.code == 65
    assert answer.json["error"]["reason"] == "not-recorded"


def test_a_record_that_was_altered_tells_nothing(node: Recording) -> None:
    jwt = node.jwt
    node.record(jwt, altered=True)
    assert node.verify(jwt, *OPTIONS).json["error"]["reason"] == "not-recorded"


def test_an_invalid_jwt_stays_invalid_whoever_recorded_it(node: Recording) -> None:
    jwt = signed(key_of(node.held), exp=1)
    node.record(jwt)
    assert node.verify(jwt, *OPTIONS).json["error"]["reason"] == "expired"


def test_a_record_by_a_key_that_this_node_never_held_cannot_be_told(node: Recording) -> None:
    jwt = node.jwt
    node.record(jwt)
    (node.state / "public" / f"{node.held.keyset.active.kid}.jwk").unlink()
    answer = node.verify(jwt, *OPTIONS)
    assert (answer.code, answer.json["error"]["code"]) == (75, "unavailable")


def test_a_record_that_cannot_be_checked_hides_none_that_can(node: Recording) -> None:
    jwt = node.jwt
    node.record(jwt, held=first("other ", lineage="33" * 16))
    assert node.verify(jwt, *OPTIONS).code == 75
    node.record(jwt)
    assert node.verify(jwt, *OPTIONS).code == 0


def test_a_trail_that_cannot_be_read_is_no_verdict(node: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*, after: int, node: str | None) -> None:
        raise UnreachableError("NATS cannot be reached")

    monkeypatch.setattr(node.stream, "read", away)
    answer = node.verify(node.jwt, *OPTIONS)
    assert (answer.code, answer.json["error"]["code"]) == (75, "unreachable")
    assert node.verify(node.jwt, *OPTIONS, "--quiet").err == ""
