"""Strategies for the core's values: tokens, policies, keysets, histories, and damaged copies of bytes."""

from __future__ import annotations

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

from keydist.core.envelope import Place
from keydist.core.keyset import Key, Keyset, Revocation, State
from keydist.core.policy import Policy
from keydist.core.strict import MAX_INT, b64url_encode
from keydist.core.token import BootstrapToken
from tests.material import Change, enc_key, make_keyset, sig_key

MODEST: Final = settings(max_examples=60, deadline=None)
MANY: Final = settings(max_examples=100, deadline=None)

PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F))
ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

times = st.integers(min_value=0, max_value=MAX_INT - 1)
lineages = st.text("0123456789abcdef", min_size=32, max_size=32)
places = st.builds(
    Place,
    cluster=st.text(PRINTABLE, min_size=1, max_size=64),
    location=st.text(PRINTABLE, min_size=1, max_size=256),
)
tokens = st.builds(
    BootstrapToken,
    token_id=st.text("0123456789abcdef", min_size=10, max_size=10),
    # 32 different bytes are never refused as repetitive; one above 0x7f makes them no text.
    secret=st.permutations(range(256)).map(lambda order: bytes([255, *(byte for byte in order if byte != 255)][:32])),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a policy within its rules."""
    small = st.integers(min_value=1, max_value=10**6)
    freshness, stale_read, jwks_max_age, skew = (draw(small) for _ in range(4))
    return Policy(
        propagation=freshness + stale_read + jwks_max_age + draw(st.integers(min_value=0, max_value=10**6)),
        freshness=freshness,
        stale_read=stale_read,
        jwks_max_age=jwks_max_age,
        max_lifetime=draw(small),
        mint_lease=draw(small),
        leeway=2 * skew + draw(st.integers(min_value=0, max_value=10**6)),
        skew=skew,
        rotate_every=draw(st.integers(min_value=0, max_value=MAX_INT - 1)),
        max_tokens_per_key=draw(st.integers(min_value=0, max_value=MAX_INT - 1)),
    )


@st.composite
def keysets(draw: st.DrawFn) -> Keyset:
    """Draw a keyset within its invariants, of any epoch."""
    keys: list[Key] = []
    for use in ("sig", "enc"):
        states = [State.ACTIVE]
        states += [State.NEXT] * draw(st.integers(min_value=0, max_value=1))
        states += [State.RETIRED] * draw(st.integers(min_value=0, max_value=4))
        for number, state in enumerate(states):
            moment = draw(times)
            if use == "enc":
                keys.append(enc_key(f"{number}", state, now=moment))
            else:
                keys.append(sig_key(f"{number}", state, alg=draw(st.sampled_from(["ES256", "EdDSA"])), now=moment))
    kids = st.binary(min_size=16, max_size=16) | st.binary(min_size=32, max_size=32)
    revoked = [
        Revocation(kid=b64url_encode(kid), at=draw(times), reason=draw(st.text(PRINTABLE, max_size=64)))
        for kid in draw(st.lists(kids, max_size=3, unique=True))
    ]
    epoch = draw(st.integers(min_value=1, max_value=80) | st.just(MAX_INT - 1))
    return make_keyset(
        epoch,
        keys=tuple(draw(st.permutations(keys))),
        revoked=tuple(revoked),
        lineage=draw(lineages),
        policy=draw(policies()),
        issued=draw(times),
    )


changes = st.sampled_from(Change)
histories = st.lists(changes, min_size=1, max_size=8)
"""What each of a few epochs does."""


@st.composite
def damaged(draw: st.DrawFn, raw: bytes, alphabet: bytes) -> bytes:
    """Draw a copy of `raw` in which one character is replaced, removed or added."""
    at = draw(st.integers(min_value=0, max_value=len(raw) - 1))
    other = bytes([draw(st.sampled_from(alphabet))])
    kind = draw(st.sampled_from(["replaced", "removed", "added", "appended"]))
    copy = {
        "replaced": raw[:at] + other + raw[at + 1 :],
        "removed": raw[:at] + raw[at + 1 :],
        "added": raw[:at] + other + raw[at:],
        "appended": raw + other,
    }[kind]
    return copy if copy != raw else raw[:at] + raw[at + 1 :]


@st.composite
def mangled(draw: st.DrawFn, raw: bytes) -> bytes:
    """Draw a copy of `raw` with up to four pieces replaced by any bytes."""
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        start = draw(st.integers(min_value=0, max_value=len(raw)))
        end = draw(st.integers(min_value=start, max_value=min(len(raw), start + 40)))
        raw = raw[:start] + draw(st.binary(max_size=20)) + raw[end:]
    return raw
