"""Asking the living: which answers forbid a first key, and which are taken as records."""

from __future__ import annotations

import asyncio

import pytest

from keydist.core.envelope import Place
from keydist.errors import RefusedGenesisError, StoreTimeoutError
from keydist.services.living import living, refuse_where_living
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import Fault
from tests.material import (
    IMPOSTOR,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    altered,
    first,
    make_keyset,
    make_record,
    noise,
    seal_for,
    sealed_record,
)

RECORD = make_record(node="b")
ELSEWHERE = Place(cluster="prod-eu2", location=PLACE.location)
OTHER_BUCKET = Place(cluster=PLACE.cluster, location="KV/other/signing-key")

FORBID = {
    "a node of this cluster": (sealed_record(RECORD), "node b lives and holds one"),
    "a node that leaves": (sealed_record(make_record(node="b", leaving=True)), "node b lives"),
    "another lineage": (sealed_record(make_record(first(lineage=OTHER_LINEAGE), node="b")), "node b lives"),
    "under another token": (sealed_record(RECORD, token=OTHER_TOKEN), "cannot be opened"),
    "under another secret": (sealed_record(RECORD, token=IMPOSTOR), "cannot be opened"),
    "altered": (altered(sealed_record(RECORD), -5), "cannot be opened"),
    "junk": (b"junk", "cannot be opened"),
    "nothing": (b"", "cannot be opened"),
    "a keyset": (seal_for(make_keyset()), "cannot be opened"),
}
LET = {
    "another cluster": sealed_record(RECORD, place=ELSEWHERE),
    "another cluster under its own token": sealed_record(RECORD, place=ELSEWHERE, token=OTHER_TOKEN),
    "another bucket": sealed_record(RECORD, place=OTHER_BUCKET),
}


class Scene:
    """A leader that asks, and nodes that answer."""

    def __init__(self, *answers: bytes | None) -> None:
        self.clock = VirtualClock()
        bucket = MemoryRecordBucket()
        for answer in answers:
            MemoryRecords(bucket).listen(heard=None, answer=lambda answer=answer: answer)  # type: ignore[misc]
        self.records = MemoryRecords(bucket, self.clock)

    def refuse(self) -> None:
        asyncio.run(refuse_where_living(self.records, place=PLACE, tokens=(TOKEN,)))

    def living(self) -> list[str]:
        found = asyncio.run(living(self.records, place=PLACE, tokens=(TOKEN,)))
        return [record.node for record in found]


@pytest.mark.parametrize(("answer", "message"), FORBID.values(), ids=FORBID)
def test_an_answer_that_may_come_from_this_cluster_forbids_a_first_key(answer: bytes, message: str) -> None:
    scene = Scene(*LET.values(), answer)
    with pytest.raises(RefusedGenesisError, match=message) as caught:
        scene.refuse()
    assert caught.value.fix
    assert TOKEN.secret.hex() not in str(caught.value)


@pytest.mark.parametrize("answers", [[], list(LET.values())], ids=["nobody", "others"])
def test_who_holds_nothing_here_forbids_nothing(answers: list[bytes]) -> None:
    scene = Scene(*answers)
    scene.refuse()
    assert scene.clock.monotonic() == (2 if answers else 0)


def test_a_question_that_cannot_be_asked_is_no_silence() -> None:
    scene = Scene()
    scene.records.fail("ask_living", Fault.TIMEOUT)
    with pytest.raises(StoreTimeoutError):
        scene.refuse()


def test_who_listens_and_does_not_answer_is_not_nobody() -> None:
    scene = Scene(None)
    with pytest.raises(StoreTimeoutError, match="does not answer"):
        scene.refuse()
    assert scene.living() == []


def test_more_answers_than_are_taken_forbid_a_first_key() -> None:
    Scene(*[LET["another cluster"]] * 999).refuse()
    with pytest.raises(RefusedGenesisError, match="cannot be opened"):
        Scene(*[LET["another cluster"]] * 1000).refuse()


def test_of_all_answers_the_records_that_can_be_opened_are_taken() -> None:
    opened = {"a node of this cluster", "a node that leaves", "another lineage"}
    scene = Scene(*LET.values(), *(answer for answer, _ in FORBID.values()))
    assert scene.living() == ["b"] * len(opened)


def test_a_name_that_stands_in_no_header_is_none() -> None:
    assert Scene(noise("junk", 300)).living() == []
