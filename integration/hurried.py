"""The shortest times with which the promises of a rotation can be looked at, for clusters that rotate all the time.

A key is published for D before it signs. V, R and A could be less than whole seconds only as 0: R is (no server is
paused here, and one that was killed answers no more), and so is S (one machine has one clock). V and A are 1 s, and D
is 2 s more than their sum, as whole seconds may each be nearly one longer or shorter than they say. V is no more than
the pause between two confirmations: a node keeps the promise by knowing a key before it signs, not by V, which only
says when 'unknown' means 'invalid' and from whom a JWK Set may be taken. So a busy machine breaks nothing; with so
short a V the outside verifier may find nobody to ask, which is counted as blind.
"""

from __future__ import annotations

from typing import Final

from integration.traffic import ISSUER

PROPAGATION: Final = 4
LIFETIME: Final = 5
LEEWAY: Final = 1


def settings(*, every: int, lease: int) -> dict[str, object]:
    """Return a node's settings, with a rotation `every` so many seconds and a lease of G seconds.

    A retired key goes after G + L + λ. A node that reads no store for so long as G stops minting.
    """
    return {
        "issuer": ISSUER,
        "heartbeat": "1s",
        "resync": "1s",
        "rotation": {"every": f"{every}s"},
        "policy": {
            "propagation": f"{PROPAGATION}s",
            "freshness": "1s",
            "stale_read": "0s",
            "jwks_max_age": "1s",
            "max_lifetime": f"{LIFETIME}s",
            "mint_lease": f"{lease}s",
            "leeway": f"{LEEWAY}s",
            "skew": "0s",
        },
    }
