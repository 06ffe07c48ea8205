"""A verifier outside of the cluster: it caches a JWK Set for its max-age and knows nothing else."""

from __future__ import annotations

from tests.properties.cluster_model.node import Machine
from tests.properties.cluster_model.time import SkewedClock, TrueTime


class OutsideVerifier:
    """Fetches from nodes that confirmed their epoch within V, as the promise asks, and keeps what it got for A."""

    def __init__(self, name: str, time: TrueTime, *, max_age: int) -> None:
        self.name = name
        self.clock = SkewedClock(time)
        self._time = time
        self._max_age = max_age
        self._fetched = 0
        self._kids: frozenset[str] | None = None

    def fetch(self, node: Machine) -> bool:
        """Fetch anew from a node that is fresh; tell whether that was done."""
        if not node.is_fresh():
            return False
        self._kids = frozenset(jwk["kid"] for jwk in node.verifier.jwks()["keys"])
        self._fetched = self._time.passed
        return True

    def kids(self) -> frozenset[str] | None:
        """Return the kids that it accepts now; None where it has to fetch first."""
        if self._time.passed >= self._fetched + self._max_age:  # RFC 9111: fresh while younger than its lifetime
            self._kids = None
        return self._kids
