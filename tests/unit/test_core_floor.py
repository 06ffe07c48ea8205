"""The floor: how it rises, and which live keysets stand on it."""

from __future__ import annotations

import pytest

from keydist.core.accept import Demands, Floor, accept
from keydist.core.floor import not_on_floor, raised_floor
from keydist.errors import ForkError, RollbackError, TrustError
from tests.material import OTHER_LINEAGE, OTHER_TOKEN, TOKEN, Change, chain, demands, extend, floor_of

ONE, TWO, THREE = chain(3)


def test_a_floor_rises_with_what_is_installed_and_forgets_nothing() -> None:
    first = raised_floor(None, ONE)
    assert first == floor_of(ONE)
    earlier = first._replace(
        token_id=OTHER_TOKEN.token_id, superseded=frozenset({"aaaaaaaaaa"}), revoked=frozenset({"k"})
    )
    risen = raised_floor(earlier, TWO)
    assert (risen.epoch, risen.digest, risen.token_id) == (2, TWO.digest, TOKEN.token_id)
    assert risen.superseded == {"aaaaaaaaaa", OTHER_TOKEN.token_id}
    assert "k" in risen.revoked
    assert raised_floor(risen, THREE).superseded == risen.superseded


def test_a_floor_put_together_from_pieces_supersedes_nothing() -> None:
    assert raised_floor(Floor(lineage=None, epoch=1, digest=ONE.digest, token_id=None), TWO).superseded == frozenset()


FLOORS: dict[str, tuple[Floor, type[TrustError] | None]] = {
    "its own": (floor_of(TWO), None),
    "the epoch before, a crash having come in between": (floor_of(ONE), None),
    "one of unknown lineage": (floor_of(TWO)._replace(lineage=None), None),
    "a later epoch": (floor_of(THREE), RollbackError),
    "another lineage": (floor_of(TWO)._replace(lineage=OTHER_LINEAGE), ForkError),
    "the epoch with other bytes": (floor_of(TWO)._replace(digest=bytes(16)), ForkError),
    "no ancestor of it": (floor_of(ONE)._replace(digest=bytes(16)), ForkError),
    "one that saw its key revoked": (floor_of(TWO)._replace(revoked=frozenset({TWO.keyset.active.kid})), ForkError),
}


@pytest.mark.parametrize(("floor", "error"), FLOORS.values(), ids=FLOORS)
def test_a_live_keyset_must_stand_on_its_floor(floor: Floor, error: type[TrustError] | None) -> None:
    found = not_on_floor(floor, TWO)
    assert (type(found) if found else None) == error


def test_a_floor_beyond_the_ancestry_is_no_objection() -> None:
    assert not_on_floor(floor_of(ONE)._replace(digest=bytes(16)), chain(70)[-1]) is None


def test_a_floor_without_a_lineage_still_bounds_the_epoch() -> None:
    lost = Floor(lineage=None, epoch=2, digest=TWO.digest, token_id=None)
    taken: Demands = demands(floor=lost)
    assert accept(TWO.envelope, taken)
    assert accept(THREE.envelope, taken)
    for envelope, error in ((ONE.envelope, RollbackError), (extend(ONE, Change.ROTATE, name="x").envelope, ForkError)):
        with pytest.raises(error):
            accept(envelope, taken)
