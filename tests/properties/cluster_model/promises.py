"""The promises P2, P3, P6 and P7 as they must hold after each step; P1, P4 and P5 are asserted where they happen."""

from __future__ import annotations

from keydist.core.accept import Floor
from keydist.errors import InvalidJwtError, UnavailableError
from tests.properties.cluster_model.node import AUDIENCE, ISSUER, TOKENS, Machine
from tests.properties.cluster_model.outside import OutsideVerifier
from tests.properties.cluster_model.world import Jwt, World

_LONG = 10**9


class Promises:
    """Remembers what each node has reached, and checks that it never falls behind it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reached: dict[str, int] = {}
        self._revoked: dict[str, set[str]] = {}
        self._has_keyset: set[str] = set()

    def forget(self, node: Machine) -> None:
        """Take back what a node had reached: its disk was replaced by an older one, or lost."""
        for known in (self._reached, self._revoked):
            known.pop(node.name, None)
        self._has_keyset.discard(node.name)

    def check(self) -> None:
        """Assert every promise."""
        self._world.claims.check()
        for node in self._world.all:
            self._p2_p3(node)
            self._p6_inside(node)
            self._p7(node)
        for outside in self._world.outside:
            self._p6_outside(outside)

    def _p2_p3(self, node: Machine) -> None:
        local = node.disk.load(TOKENS)
        has = local.held is not None
        assert has or node.name not in self._has_keyset, f"P3: {node.name} lost its keyset: {local.damage}"
        if local.held is not None:
            self._has_keyset.add(node.name)
        epoch = _epoch(local.floor)
        least = self._reached.get(node.name, 0)
        assert epoch >= least, f"P2: {node.name} went from epoch {least} to {epoch}"
        self._reached[node.name] = epoch
        if local.floor is not None:
            self._revoked.setdefault(node.name, set()).update(local.floor.revoked)

    def _p7(self, node: Machine) -> None:
        for kid in self._revoked.get(node.name, ()):
            jwt = self._world.keepsakes.get(kid)
            if jwt is None:
                continue
            assert _verdict(node, jwt, leeway=_LONG) is not None, f"P7: {node.name} accepts the revoked {kid} again"

    def _p6_inside(self, node: Machine) -> None:
        node.verifier._following.look()  # it may lag 100 ms behind, in which no time passes here
        if not self._world.is_clean or self._world.is_falsely_confirmed(node):
            return
        for jwt in self._world.jwts:
            if self._is_exempt(jwt):
                continue
            why = _verdict(node, jwt)
            if isinstance(why, UnavailableError):
                assert not node.is_fresh(), f"P6: {node.name} confirmed its epoch within V and cannot tell"
            elif why is not None:
                is_over = jwt.expires + self._world.policy.leeway <= node.clock.now()
                assert is_over, f"P6: {node.name} refuses a JWT that lives: {why}"

    def _p6_outside(self, outside: OutsideVerifier) -> None:
        kids = outside.kids()
        if kids is None or not self._world.is_clean:
            return
        for jwt in self._world.jwts:
            is_over = jwt.expires + self._world.policy.leeway <= outside.clock.now()
            if jwt.kid in kids or is_over or self._is_exempt(jwt):
                continue
            raise AssertionError(f"P6: {outside.name} refuses a JWT that lives: its JWK Set does not name the key")

    def _is_exempt(self, jwt: Jwt) -> bool:
        history, policy = self._world.history, self._world.policy
        if jwt.kid in history.revoked or jwt.is_falsely_confirmed:
            return True
        in_haste = history.in_haste.get(jwt.kid)
        return in_haste is not None and self._world.time.passed < in_haste + policy.propagation + 4 * policy.skew


def _epoch(floor: Floor | None) -> int:
    return floor.epoch if floor is not None else 0


def _verdict(node: Machine, jwt: Jwt, leeway: int | None = None) -> InvalidJwtError | UnavailableError | None:
    """Return why a node does not accept a JWT; None where it does."""
    try:
        node.verifier.verify(jwt.text, audience=AUDIENCE, issuer=ISSUER, leeway=leeway)
    except (InvalidJwtError, UnavailableError) as exc:
        return exc
    return None
