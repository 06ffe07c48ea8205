"""Leases: what a confirmation speaks for, and until when."""

from __future__ import annotations

import pytest

from keydist.core.accept import Held
from keydist.core.lease import confirms, is_fresh, may_mint
from keydist.core.local import Confirmation
from keydist.core.policy import Policy
from keydist.errors import ClockBehindError, KeydistError, LeaseExpiredError
from tests.material import NOW, Change, chain, extend, first

POLICY = Policy()
LEASE, FRESH, SKEW = POLICY.mint_lease, POLICY.freshness, POLICY.skew
LONG = chain(70)
HELD = LONG[-1]
OTHER_SIDE = extend(chain(3)[1], Change.RESEAL)


def naming(held: Held, at: int = NOW) -> Confirmation:
    return Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=at)


@pytest.mark.parametrize(
    ("confirmation", "speaks"),
    [
        pytest.param(naming(HELD), True, id="its own epoch"),
        pytest.param(naming(LONG[68]), True, id="its parent"),
        pytest.param(naming(LONG[5]), True, id="the oldest ancestor that it names"),
        pytest.param(naming(LONG[4]), False, id="one further back"),
        pytest.param(naming(LONG[0]), False, id="the first epoch"),
        pytest.param(naming(LONG[68])._replace(epoch=68), False, id="an ancestor under another epoch"),
        pytest.param(naming(HELD)._replace(digest=bytes(16)), False, id="its epoch with other bytes"),
        pytest.param(naming(LONG[68])._replace(digest=bytes(16)), False, id="its parent's epoch with other bytes"),
        pytest.param(naming(HELD)._replace(epoch=71), False, id="a later epoch"),
        pytest.param(naming(first("other ")), False, id="another history"),
    ],
)
def test_a_confirmation_speaks_for_what_it_names_and_its_descendants(
    confirmation: Confirmation, *, speaks: bool
) -> None:
    assert confirms(confirmation, HELD) is speaks
    if speaks:
        may_mint(HELD, confirmation, NOW)
    else:
        with pytest.raises(LeaseExpiredError):
            may_mint(HELD, confirmation, NOW)
    assert is_fresh(HELD, confirmation, NOW) is speaks


def test_a_confirmation_of_one_side_of_a_fork_does_not_speak_for_the_other() -> None:
    assert not confirms(naming(OTHER_SIDE), chain(3)[2])


@pytest.mark.parametrize(
    ("age", "refused", "fresh"),
    [
        pytest.param(0, None, True, id="now"),
        pytest.param(FRESH, None, True, id="exactly V"),
        pytest.param(FRESH + 1, None, False, id="a second more than V"),
        pytest.param(LEASE, None, False, id="exactly G"),
        pytest.param(LEASE + 1, LeaseExpiredError, False, id="a second more than G"),
        pytest.param(-SKEW, None, True, id="the clock is behind by exactly S"),
        pytest.param(-SKEW - 1, ClockBehindError, False, id="by a second more than S"),
    ],
)
def test_how_long_a_confirmation_is_worth_something(
    age: int, refused: type[KeydistError] | None, *, fresh: bool
) -> None:
    confirmation = naming(HELD)
    if refused is None:
        may_mint(HELD, confirmation, NOW + age)
    else:
        with pytest.raises(refused) as caught:
            may_mint(HELD, confirmation, NOW + age)
        assert caught.value.expected
        assert caught.value.found
        assert caught.value.fix
    assert is_fresh(HELD, confirmation, NOW + age) is fresh


def test_without_a_confirmation_nothing_is_minted_and_nothing_is_fresh() -> None:
    with pytest.raises(LeaseExpiredError):
        may_mint(HELD, None, NOW)
    assert not is_fresh(HELD, None, NOW)
