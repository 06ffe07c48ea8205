"""What stands around a node: its agent, its hooks, the service manager's units, the rest of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.core.doctor.times import span
from keydist.core.doctor.verdict import Verdict, failed, fine, together, unseen, warning
from keydist.errors import HookFailedError, KeydistError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AGENT_UNIT: Final = "keydist.service"
BOOTSTRAP_UNIT: Final = "keydist-bootstrap.service"
_STARTED: Final = ("enabled", "static", "indirect", "alias", "generated", "linked")
_MOST_EXPOSED: Final = 2.0


class AgentSeen(NamedTuple):
    """An agent by its answer: its version (empty where it is of a release that does not say), its alarms by code.

    `looked`: how many seconds ago it last looked at the store, None where it does not say.
    """

    version: str
    looked: int | None
    epoch: int | None
    alarms: tuple[str, ...]


def agent_of(answer: Mapping[str, Any], *, now: int) -> AgentSeen:
    """Return what an agent's answer says, whatever else is in it."""
    own, alarms = answer.get("agent"), answer.get("alarms")
    members = own if isinstance(own, dict) else {}
    looked, epoch = members.get("looked"), answer.get("epoch")
    codes = [one.get("code") for one in alarms if isinstance(one, dict)] if isinstance(alarms, list) else []
    return AgentSeen(
        version=str(members.get("version", ""))[:64],
        looked=max(0, now - looked) if type(looked) is int else None,
        epoch=epoch if type(epoch) is int else None,
        alarms=tuple(dict.fromkeys(code[:64] for code in codes if isinstance(code, str))),
    )


def agent(found: AgentSeen, *, version: str, resync: int, epoch: int | None) -> Verdict:
    """Judge a running agent; `resync` is how often it looks at the least, `epoch` what the disk holds."""
    if found.version and found.version != version:
        return failed(
            TransientError,
            "the agent runs another version than is installed",
            expected=version,
            found=found.version,
            fix="systemctl restart keydist",
        )
    if found.looked is not None and found.looked > 3 * resync:
        return failed(
            TransientError,
            "the agent has not looked at the store for too long",
            expected=f"a look every {resync} s",
            found=f"the last {span(found.looked)} ago",
            fix="see its log; systemctl restart keydist",
        )
    if epoch is not None and found.epoch is not None and found.epoch != epoch:
        return warning(f"the agent uses epoch {found.epoch}, the disk holds {epoch}", "try again in a moment")
    looked = "" if found.looked is None else f", looked at the store {found.looked} s ago"
    if found.alarms:
        return warning(f"it answers{looked}; its alarms: {', '.join(found.alarms)}", "see: keydist status")
    return fine(f"it answers, version {found.version or 'unknown'}{looked}")


class HookSeen(NamedTuple):
    """A hook: its name in logs, and whether it was told what is live now."""

    name: str
    is_told: bool


def hooks(found: Sequence[HookSeen], *, runs: bool) -> Verdict:
    """Judge whether every hook was told of the keyset in use; `runs`: an agent answers, that could tell them."""
    if not found:
        return fine("none are configured")
    late = [hook.name for hook in found if not hook.is_told]
    if not late:
        return fine(f"{len(found)} told of the keyset in use")
    if not runs:
        return warning(f"not told of the keyset in use: {', '.join(late)}", "an agent tells them: keydist agent")
    return failed(
        HookFailedError,
        f"not told of the keyset in use: {', '.join(late)}",
        expected="each to have ended with 0",
        fix="see hook-failed and hook-output in the agent's log; it is tried again every few minutes",
    )


class Unit(NamedTuple):
    """A unit as the service manager knows it; `exposure` as systemd-analyze rates it, None where it could not.

    `watchdog`: it is killed when it hangs.
    """

    name: str
    load: str
    active: str
    enabled: str
    result: str
    watchdog: bool
    exposure: float | None

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return self.load not in ("not-found", "")

    @property
    def is_masked(self) -> bool:
        """Whether a person decided that it is not to be started."""
        return self.load == "masked"


def units(found: Sequence[Unit]) -> Verdict:
    """Judge the units of keydist."""
    there = [unit for unit in found if unit.is_there]
    if not there:
        return unseen("no unit of keydist is installed", "where systemd is to run it, see systemd/README.md")
    has_agent = any(unit.name == AGENT_UNIT and not unit.is_masked for unit in there)
    return together(_unit(unit, has_agent=has_agent) for unit in there)


def _unit(unit: Unit, *, has_agent: bool) -> Verdict:
    if unit.is_masked:
        return fine(f"{unit.name} is masked")
    if unit.load != "loaded":
        fix = f"see: systemd-analyze verify {unit.name}"
        return failed(TransientError, f"{unit.name} cannot be loaded", found=unit.load, fix=fix)
    if unit.active == "failed":
        fix = f"see: journalctl -u {unit.name} -n 50"
        return failed(TransientError, f"{unit.name} failed", found=unit.result, fix=fix)
    rated = "" if unit.exposure is None else f", exposure {unit.exposure:.1f}"
    return _lack(unit, has_agent=has_agent) or fine(f"{unit.name} {unit.active}, {unit.enabled or 'as started'}{rated}")


def _lack(unit: Unit, *, has_agent: bool) -> Verdict | None:
    """Return what a unit that is loaded and has not failed lacks, or None."""
    name, is_agent = unit.name, unit.name == AGENT_UNIT
    is_on = unit.enabled.startswith(_STARTED)
    if is_agent and unit.active != "active" and is_on:
        fix = f"systemctl start keydist; then: journalctl -u {name} -n 50"
        return failed(TransientError, f"{name} does not run", expected="active", found=unit.active, fix=fix)
    if not is_on and (is_agent or (name == BOOTSTRAP_UNIT and not has_agent)):
        return warning(f"{name} is {unit.active}, and not started at boot", f"systemctl enable --now {name}")
    if is_agent and not unit.watchdog:
        return warning(f"{name} has no watchdog: an agent that hangs is not restarted", "set WatchdogSec=")
    if unit.exposure is not None and unit.exposure > _MOST_EXPOSED:
        fix = f"see: systemd-analyze security {name}; use the shipped unit"
        return warning(f"{name} has an exposure of {unit.exposure:.1f}", fix)
    return None


class NodeSeen(NamedTuple):
    """A node of the fleet: its state in words, and what that means for the exit code."""

    name: str
    state: str
    exit_code: int
    is_pending: bool


def fleet(found: Sequence[NodeSeen]) -> Verdict:
    """Judge the fleet as a leader sees it."""
    if not found:
        return warning("no node has a record", "start keydist agent on every node")
    wrong = [node for node in found if node.exit_code and not node.is_pending]
    pending = [node.name for node in found if node.is_pending]
    if wrong:
        told = ", ".join(f"{node.name} ({node.state})" for node in wrong[:8])
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""  # noqa: PLR2004 - as above
        code = next(node.exit_code for node in wrong)
        verdict = failed(
            KeydistError, f"of {_nodes(found)}: {told}{more}", fix="see: keydist status --fleet; docs/alarms.md"
        )
        return verdict._replace(exit_code=code)
    if pending:
        return warning(
            f"{_nodes(found)}, not heard of within the time: {', '.join(pending[:8])}",
            "wait for a heartbeat with: keydist status --fleet",
        )
    return fine(f"{_nodes(found)}, all current or gone as they said")


def _nodes(found: Sequence[NodeSeen]) -> str:
    return "1 node" if len(found) == 1 else f"{len(found)} nodes"
