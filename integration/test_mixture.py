"""Everything that goes wrong with NATS, mixed at random; the seed is printed, and `KEYDIST_TEST_SEED` repeats it.

`make mixtures` runs many of them; docs/faults.md has the last result.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.mixture import Mixture, seed_from_environment


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_the_promises_hold_in_a_random_mixture_of_faults(tmp_path: Path) -> None:
    seed = seed_from_environment()
    print(f"KEYDIST_TEST_SEED={seed}")
    print(Mixture(tmp_path, seed=seed).run())
