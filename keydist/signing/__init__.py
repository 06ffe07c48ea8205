"""The library: mint and verify JWTs with this node's keyset, in any process that may read its state directory."""

from keydist.core.jws import Claims
from keydist.signing.protocol import MintsJwts, VerifiesJwts
from keydist.signing.signer import Signer
from keydist.signing.verifier import Verifier

__all__ = ["Claims", "MintsJwts", "Signer", "Verifier", "VerifiesJwts"]
