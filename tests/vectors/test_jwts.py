"""Every JWT of jwts.json by the public way in: what is right is taken, what is hostile is refused for its reason."""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import Any, Final

import pytest

from keydist.core import jws
from keydist.core.jwk import jwk_set
from keydist.core.local import Confirmation
from keydist.errors import InvalidJwtError
from keydist.signing import Verifier
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.vectors.generate import FOLDER
from tests.vectors.jwt_material import HELD

JWTS: Final[dict[str, Any]] = json.loads((FOLDER / "jwts.json").read_text("ascii"))
ASKED: Final[dict[str, Any]] = {name: JWTS[name] for name in ("audience", "issuer", "typ", "leeway")}
REASONS: Final = frozenset(
    (jws.__doc__ or "").partition("reasons:")[2].partition(". None")[0].replace(",", " ").split()
)


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    """The verifier of a node that holds the keys of the file, and confirmed that just now."""
    disk, now = MemoryKeysetDisk(), JWTS["now"]
    disk.install(HELD, based_on=disk.load(()), now=now)
    disk.confirm(Confirmation(epoch=HELD.keyset.epoch, digest=HELD.digest, at=now))
    return Verifier(disk, VirtualClock(now))


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def test_there_are_enough_of_every_kind() -> None:
    hostile = JWTS["invalid"]
    assert len({case["jwt"] for case in hostile}) == len({case["name"] for case in hostile}) == len(hostile) >= 400
    assert {case["reason"] for case in hostile} == REASONS
    assert JWTS["jwks"] == jwk_set(HELD.keyset)


@pytest.mark.parametrize("case", named(JWTS["valid"]))
def test_what_is_right_verifies(case: dict[str, Any], verifier: Verifier) -> None:
    claims = verifier.verify(case["jwt"], **ASKED)
    assert claims.issuer == JWTS["issuer"]
    assert JWTS["audience"] in claims.audience
    assert asyncio.run(verifier.verify_async(case["jwt"], **ASKED)) == claims


@pytest.mark.parametrize("case", named(JWTS["invalid"]))
def test_what_is_hostile_is_refused_for_its_reason(case: dict[str, Any], verifier: Verifier) -> None:
    with pytest.raises(InvalidJwtError) as caught:
        verifier.verify(case["jwt"], **ASKED)
    assert caught.value.reason == case["reason"]
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + json.dumps(caught.value.as_json())
    assert not any(segment in shown for segment in case["jwt"].split(".") if len(segment) > 20)


@pytest.mark.parametrize(
    "hostile", [None, b"", b"a.b.c", 1, ["a.b.c"], "A" * 2**20, "." * 2**20], ids=lambda one: repr(one)[:12]
)
def test_what_is_no_jwt_at_all_is_refused_too(hostile: Any, verifier: Verifier) -> None:  # noqa: ANN401
    with pytest.raises(InvalidJwtError) as caught:
        verifier.verify(hostile, **ASKED)
    assert caught.value.reason == ("size" if isinstance(hostile, str) else "shape")
