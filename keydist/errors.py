"""Every failure keydist can report, grouped by what the caller should do about it.

A family stands for a reaction and owns one exit code; a class below it names one cause. Errors carry
fields (what was expected, what was found, what to do), so that nobody parses their text. Nothing in
them may be secret: they reach logs, terminals and JSON.
"""

from __future__ import annotations

from typing import ClassVar


class KeydistError(Exception):
    """Report one failure: what happened, what was expected, what was found, what to do next."""

    code: ClassVar[str] = "error"
    family: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, expected: str = "", found: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.found = found
        self.fix = fix

    def __str__(self) -> str:
        """Return one line: the message, then expected, found and the fix where they are known."""
        facts = [f"{name} {value}" for name, value in (("expected", self.expected), ("found", self.found)) if value]
        text = f"{self.message} ({', '.join(facts)})" if facts else self.message
        return f"{text}; {self.fix}" if self.fix else text

    def as_json(self) -> dict[str, str]:
        """Return the members that a program reads."""
        return {
            "code": self.code,
            "family": self.family,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
            "fix": self.fix,
        }


class InternalError(KeydistError):
    """A defect in keydist: something happened that no part of it expects."""

    code, family, exit_code = "internal", "internal", 70


class UsageError(KeydistError):
    """The command line asks for something that does not exist or does not fit together."""

    code, family, exit_code = "usage", "usage", 2


# --- trust: what was read must not be used; waiting does not help -------------------------------


class TrustError(KeydistError):
    """Something was read that must not be used."""

    code, family, exit_code = "trust", "trust", 65


class MalformedError(TrustError):
    """Bytes are not an envelope, a keyset or a state file of the one shape that is accepted."""

    code = "malformed"


class UnsupportedError(TrustError):
    """A version or type that this release does not know; it is left alone, never overwritten."""

    code = "unsupported"


class ForeignClusterError(TrustError):
    """The envelope names another cluster or another place."""

    code = "foreign-cluster"


class CommitmentError(TrustError):
    """The key commitment does not match: same token id, other secret, or an altered header."""

    code = "commitment"


class TamperedError(TrustError):
    """The envelope does not authenticate under the right key."""

    code = "tampered"


class RollbackError(TrustError):
    """An older epoch than one this node has accepted, or than the operator demands."""

    code = "rollback"


class ForkError(TrustError):
    """Another history than the one this node holds; a person must choose a side."""

    code = "fork"


class CorruptError(TrustError):
    """State on disk is damaged or incomplete."""

    code = "corrupt"


class RebuiltFloorError(TrustError):
    """The floor was missing or unreadable: what this node once saw revoked or superseded may be forgotten."""

    code = "floor-rebuilt"


class UnprovenAncestryError(TrustError):
    """The accepted keyset is too far ahead for its ancestry to reach back to this node's."""

    code = "ancestry-unproven"


class RefusedGenesisError(TrustError):
    """A first key must not be generated here: there are signs of an earlier one."""

    code = "refused-genesis"


class StoreLostError(TrustError):
    """The store no longer holds the keyset that this node holds."""

    code = "store-lost"


class UnreadableRecordError(TrustError):
    """A node's record cannot be opened."""

    code = "record-unreadable"


class RefusedOverwriteError(TrustError):
    """The store holds something that keydist will not overwrite by itself."""

    code = "refused-overwrite"


class InvalidJwtError(TrustError):
    """A JWT must not be believed; `reason` is one word of the list in `keydist.core.jws`, or not-recorded (audit)."""

    code = "invalid-jwt"

    def __init__(self, message: str, *, reason: str, expected: str = "", found: str = "", fix: str = "") -> None:
        super().__init__(message, expected=expected, found=found, fix=fix)
        self.reason = reason

    def as_json(self) -> dict[str, str]:
        """Return the members that a program reads, the reason among them."""
        return super().as_json() | {"reason": self.reason}


class InvalidJweError(TrustError):
    """A JWE must not be opened, or cannot be: its shape, its key or its tag is wrong."""

    code = "invalid-jwe"


class BrokenTrailError(TrustError):
    """The audit trail is not as it was written; `node`, `chain`, `seq` and `wrong` (one word) name the broken link.

    `chain` is empty where no record says which it is.
    """

    code = "audit-broken"

    def __init__(
        self,
        message: str,
        *,
        node: str,
        seq: int,
        wrong: str,
        chain: str = "",
        expected: str = "",
        found: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(message, expected=expected, found=found, fix=fix)
        self.node = node
        self.chain = chain
        self.seq = seq
        self.wrong = wrong

    def as_json(self) -> dict[str, str]:
        """Return the members that a program reads, the link among them."""
        link = {"node": self.node, "chain": self.chain, "seq": str(self.seq), "wrong": self.wrong}
        return super().as_json() | link


# --- transient: trying again may help -----------------------------------------------------------


class TransientError(KeydistError):
    """The same request may succeed later."""

    code, family, exit_code = "transient", "transient", 75


class UnreachableError(TransientError):
    """No server answered."""

    code = "unreachable"
    is_there = False
    """Whether a server was there all the same: it did not let this node in in time, or JetStream did not answer."""


class UnconfirmedError(TransientError):
    """The store answers and its leader does not: what this node holds is not confirmed to be the latest."""

    code = "unconfirmed"


class StaleMirrorError(TransientError):
    """A region's mirror is of a bucket that is no more: it takes nothing in, and nobody else says so."""

    code = "stale-mirror"


class StoreTimeoutError(TransientError):
    """A server was reached but did not answer in time; whether a write took effect is unknown."""

    code = "store-timeout"


class WaitTimeoutError(TransientError):
    """What this node waits for did not come before the deadline."""

    code = "timeout"


class NotYetError(TransientError):
    """Nothing to take yet: the key has not been published."""

    code = "not-yet"


class NodeLivesError(TransientError):
    """A node lives whose record was to be forgotten."""

    code = "node-lives"


class OutdatedError(TransientError):
    """The store holds a later epoch than this node."""

    code = "outdated"


class ClockBehindError(TransientError):
    """The clock of this machine shows a time before one that this node has kept."""

    code = "clock-behind"


class LeaseExpiredError(TransientError):
    """The epoch of this node was last confirmed too long ago to mint under it."""

    code = "lease-expired"


class UnavailableError(TransientError):
    """What was asked cannot be told here and now: neither yes nor no."""

    code = "unavailable"


class BucketMissingError(TransientError):
    """Nobody takes writes to the bucket: it does not exist, or has no leader now."""

    code = "bucket-missing"


class AuditBehindError(TransientError):
    """Records of the audit trail are only on this node, or JWTs are not recorded any more."""

    code = "audit-behind"


class HookFailedError(TransientError):
    """A hook that should run when the key changes did not do its work."""

    code = "hook-failed"


class ListenError(TransientError):
    """An address at which the agent should serve cannot be had."""

    code = "cannot-listen"


class OverdueError(TransientError):
    """Something that should be over by now; `phase` is rotation, drop or rehearsal."""

    code = "overdue"

    def __init__(self, message: str, *, phase: str = "", expected: str = "", found: str = "", fix: str = "") -> None:
        super().__init__(message, expected=expected, found=found, fix=fix)
        self.phase = phase


class BusyError(TransientError):
    """Another keydist process holds the lock of this state directory."""

    code = "busy"


class ConflictError(TransientError):
    """Somebody else wrote first; read again and decide again."""

    code, family = "conflict", "conflict"


# --- permission ---------------------------------------------------------------------------------


class PermissionFamilyError(KeydistError):
    """Not allowed, or not with what this node holds."""

    code, family, exit_code = "permission", "permission", 77


class WrongTokenError(PermissionFamilyError):
    """The envelope is sealed under a token that is not held, or that was superseded."""

    code = "wrong-token"

    def __init__(self, message: str, *, have: tuple[str, ...], need: str, fix: str) -> None:
        super().__init__(message, expected=f"token {need}", found=", ".join(have) or "no token", fix=fix)
        self.have = have
        self.need = need


class WrongRoleError(PermissionFamilyError):
    """The command is for a node of another role."""

    code = "wrong-role"


class NotAllowedError(PermissionFamilyError):
    """The agent's configuration does not allow this user what was asked of its socket."""

    code = "not-allowed"


class UnsafeFileError(PermissionFamilyError):
    """A file's owner, mode or type would let somebody else read or replace it."""

    code = "unsafe-file"


class WrongUserError(PermissionFamilyError):
    """The state belongs to another user than the one who runs keydist."""

    code = "wrong-user"


class ForbiddenError(PermissionFamilyError):
    """NATS does not allow this user the operation."""

    code = "forbidden"


class CredentialsRefusedError(PermissionFamilyError):
    """NATS refuses the credentials."""

    code = "credentials-refused"


# --- disk and configuration ---------------------------------------------------------------------


class DiskError(KeydistError):
    """The state directory cannot be read or written."""

    code, family, exit_code = "disk", "disk", 73


class DiskFullError(DiskError):
    """No space, or no quota, is left."""

    code = "disk-full"


class ReadOnlyDiskError(DiskError):
    """The file system is mounted read-only."""

    code = "disk-read-only"


class ConfigError(KeydistError):
    """The configuration, or a file it names, cannot be used as it stands."""

    code, family, exit_code = "config", "configuration", 78


class TwoInstancesError(ConfigError):
    """Two nodes live under one name."""

    code = "two-instances"


class TokenError(ConfigError):
    """A bootstrap token is missing or is not well formed."""

    code = "token"
