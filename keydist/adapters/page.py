"""The status page: a report as one HTML document for people, complete in itself.

It loads nothing and runs nothing: no script, no font, no picture from elsewhere, so that it works where there is no
network. It does not reload itself, which takes a reader's place away; it says when it was made. Everything from a
report is escaped: names and alarms may have come from anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from keydist.adapters.page_style import PAGE_POLICY, STYLE, STYLE_HASH
from keydist.adapters.page_text import far, moment, safe, short, span, stamp
from keydist.adapters.page_timeline import timeline
from keydist.core.fleet import NodeState, NodeView
from keydist.core.report import FleetReport, KeyReport, KeysetReport, Report
from keydist.core.restart import InStore
from keydist.errors import KeydistError

__all__ = ["PAGE_POLICY", "STYLE_HASH", "render_page"]

MOST_NODES: Final = 500
MOST_ALARMS: Final = 50
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='none'"
    " stroke='%230f6b52' stroke-width='2' d='M6 10a3 3 0 1 1 0-.01zM6 8l7-5m-2.500 1.800 2 2.200'/%3E%3C/svg%3E"
)
_TICK: Final = (
    '<svg aria-hidden="true" viewBox="0 0 24 24"><circle cx="12" cy="12" r="10"/><path d="m7 12 4 4 6-8"/></svg>'
)
_SIGN: Final = '<svg aria-hidden="true" viewBox="0 0 24 24"><path d="M12 2 1 21h22zM12 9v5m0 3v.5"/></svg>'


def render_page(report: Report) -> str:
    """Return the document."""
    title = f"{_headline(report)[0]} – {report.node} – keydist"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{safe(title)}</title>'
        f'<link rel="icon" href="{_ICON}"><style>{STYLE}</style></head><body>'
        f'<a class="skip" href="#main">Skip to the content</a>{_header(report)}<main id="main" tabindex="-1">'
        f"{_alarms(report)}{_node(report)}{_keys(report)}{_fleet(report)}</main>{_footer(report)}</body></html>\n"
    )


# --- the head of the page -------------------------------------------------------------------------


def _headline(report: Report) -> tuple[str, str, str]:
    """Return how the node stands in a few words, the class of that, and a sentence more."""
    if report.keyset is None:
        return "No keyset", "bad", "This node holds no key yet: it can neither sign nor verify."
    if report.alarms:
        count = len(report.alarms)
        return f"{count} alarm{'s' if count > 1 else ''}", "bad", "What to do stands below."
    return "Healthy", "ok", f"This node uses epoch {report.keyset.epoch}; nothing is wrong."


def _header(report: Report) -> str:
    words, kind, more = _headline(report)
    icon = _TICK if kind == "ok" else _SIGN
    return (
        f'<header><p class="brand"><b>keydist</b> · {safe(report.role)} of cluster {safe(report.cluster)}</p>'
        f'<h1>{safe(report.node)}</h1><div class="state {kind}">{icon}<p>{words}. {more}</p></div></header>'
    )


def _footer(report: Report) -> str:
    return (
        f'<footer><p>As of <time datetime="{stamp(report.now)}">{stamp(report.now)}</time>, by the clock of this'
        ' machine; all times are UTC. <a href="/">Load it again</a> to see how things stand then.</p>'
        f'<p>keydist {safe(report.version)} · <a href="/.well-known/jwks.json">JWK Set</a> · '
        '<a href="/healthz">health</a> · <a href="/readyz">readiness</a></p></footer>'
    )


# --- alarms ---------------------------------------------------------------------------------------


def _alarms(report: Report) -> str:
    if not report.alarms:
        return ""
    shown = "".join(_alarm(alarm) for alarm in report.alarms[:MOST_ALARMS])
    rest = len(report.alarms) - MOST_ALARMS
    more = f'<p class="note">And {rest} more: keydist status</p>' if rest > 0 else ""
    return f'<section aria-labelledby="alarms"><h2 id="alarms">Alarms</h2>{shown}{more}</section>'


def _alarm(alarm: KeydistError) -> str:
    facts = [
        f"{name}: {safe(value)}" for name, value in (("Expected", alarm.expected), ("Found", alarm.found)) if value
    ]
    found = f'<p class="note">{" · ".join(facts)}</p>' if facts else ""
    fix = f"<p><strong>What to do:</strong> {safe(alarm.fix)}</p>" if alarm.fix else ""
    code = f'<span class="code">({safe(alarm.code)})</span>'
    return f'<article class="alarm"><h3>{safe(alarm.message)} {code}</h3>{found}{fix}</article>'


# --- this node ------------------------------------------------------------------------------------


def _node(report: Report) -> str:
    rows = [*_keyset_facts(report), *_other_facts(report)]
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<section aria-labelledby="node"><h2 id="node">This node</h2><dl>{facts}</dl></section>'


def _keyset_facts(report: Report) -> Iterator[tuple[str, str]]:
    keyset, now = report.keyset, report.now
    if keyset is None:
        return
    yield "Epoch", f"{keyset.epoch}, issued {moment(keyset.issued, now=now)}"
    yield "Taken in", moment(keyset.loaded, now=now)
    yield "Confirmed by the store", moment(keyset.confirmed, now=now)
    yield "May mint until", moment(keyset.lease.mint_until if keyset.lease else None, now=now, absent="not at all")
    yield "Next rotation", _rotation(keyset, now=now)
    yield "Lineage", f"<code>{safe(keyset.lineage)}</code>"
    yield "Token id", f"<code>{safe(keyset.token)}</code>"


def _rotation(keyset: KeysetReport, *, now: int) -> str:
    plan = keyset.plan
    if plan.due is None:
        return '<span class="quiet">none by schedule</span>'
    opens = f"; not before {moment(plan.opens, now=now)}" if plan.opens > max(plan.due, now) else ""
    lacking = f"; {len(plan.lacking)} node(s) have not acknowledged the next keys" if plan.lacking else ""
    return f"{moment(plan.due, now=now)}, because {safe(plan.why)}{opens}{lacking}"


def _other_facts(report: Report) -> Iterator[tuple[str, str]]:
    now = report.now
    store = "not judged" if report.store is None else report.store.value
    yield "In the store", f'{safe(store)} <span class="far">looked {far(report.looked - now)}</span>'
    yield "Agent runs since", moment(report.started, now=now)
    yield "Backup tried out", moment(report.rehearsed, now=now)
    if report.republished is not None:
        yield "Keyset put back", moment(report.republished, now=now)
    if report.issuer is not None:
        yield "Issuer", safe(report.issuer)
    refused = sum(report.failures.values())
    why = ", ".join(f"{safe(name)} {count}" for name, count in sorted(report.failures.items()) if count)
    yield "JWTs not believed", f"{refused} ({why})" if refused else '<span class="quiet">none</span>'


# --- keys -----------------------------------------------------------------------------------------


def _keys(report: Report) -> str:
    keyset, now = report.keyset, report.now
    if keyset is None:
        why = "a leader has to publish it" if report.store is not InStore.UNREACHABLE else "no server answers"
        return f'<section aria-labelledby="keys"><h2 id="keys">Keys</h2><p>There are none here: {why}.</p></section>'
    rows = "".join(_key(key, now=now) for key in keyset.keys)
    rows += "".join(
        _row(
            f'<span class="kid">{safe(entry.kid)}</span>',
            (
                ("State", '<span class="tag k-revoked">revoked</span>'),
                ("Kind", f'<span class="quiet">{safe(entry.reason) or "no reason given"}</span>'),
                ("Since", moment(entry.at, now=now)),
                ("May go", moment(drops, now=now)),
                ("Minted here", "–"),
            ),
        )
        for entry, drops in keyset.revoked
    )
    return (
        f'<section aria-labelledby="keys"><h2 id="keys">Keys</h2>{timeline(keyset, now=now)}'
        + _table("Every key of the keyset. Since when, by the clock of this node.", _KEY_HEADS, rows)
        + "</section>"
    )


_KEY_HEADS: Final = ("Key", "State", "Kind", "Since", "May go", "Minted here")


def _key(key: KeyReport, *, now: int) -> str:
    size = f" {key.bits}" if key.bits else ""
    use = "signs" if key.use == "sig" else "encrypts"
    minted = "–" if key.use != "sig" else f"{key.minted.jwts}"
    return _row(
        f'<span class="kid">{safe(key.kid)}</span>',
        (
            ("State", f'<span class="tag k-{key.state.value}">{safe(key.state)}</span>'),
            ("Kind", f"{safe(key.alg)}{size}, {use}"),
            ("Since", moment(key.since, now=now, absent="not noted")),
            ("May go", moment(key.drops, now=now, absent="–")),
            ("Minted here", minted),
        ),
    )


# --- the fleet ------------------------------------------------------------------------------------

_STATES: Final = tuple(NodeState)
_FLEET_HEADS: Final = ("Node", "State", "Role", "Epoch", "Token", "Last heard", "Version")


def _fleet(report: Report) -> str:
    fleet = report.fleet
    if fleet is None:
        text = (
            "Only leaders watch the fleet; this node knows itself. Look at a leader's page, or ask every node:"
            " <code>keydist status --fleet</code>"
        )
        return f'<section aria-labelledby="fleet"><h2 id="fleet">Fleet</h2><p>{text}</p></section>'
    order = sorted(fleet.nodes, key=lambda row: (-_STATES.index(row.state), row.record.node))
    rows = "".join(_node_row(row) for row in order[:MOST_NODES])
    rest = len(order) - MOST_NODES
    more = f'<p class="note">And {rest} more: <code>keydist status --fleet</code></p>' if rest > 0 else ""
    table = _table("Every instance that this leader has seen, what needs attention first.", _FLEET_HEADS, rows)
    return (
        f'<section aria-labelledby="fleet"><h2 id="fleet">Fleet</h2>{_summary(fleet)}{_unreadable(fleet)}'
        f"{table if rows else '<p>No node was heard yet.</p>'}{more}</section>"
    )


def _summary(fleet: FleetReport) -> str:
    counts = Counter(row.state for row in fleet.nodes)
    words = ", ".join(f"{counts[state]} {safe(state)}" for state in _STATES if counts[state])
    found = fleet.propagation
    took = sum(found.counts)
    mean = f" A live node takes a new epoch in {found.total / took:.1f} s on average." if took else ""
    waiting = f" {found.waiting} node(s) have not said yet that they use it." if found.waiting else ""
    return f"<p>{words}.{mean}{waiting}</p>" if words else ""


def _unreadable(fleet: FleetReport) -> str:
    if not fleet.unreadable:
        return ""
    names = ", ".join(safe(name[:64]) for name in fleet.unreadable[:8])
    more = " and more" if len(fleet.unreadable) > 8 else ""  # noqa: PLR2004 - as above
    return (
        f"<p><strong>Records that cannot be opened:</strong> {names}{more}."
        " Compare the token files: <code>keydist token inspect</code></p>"
    )


def _node_row(row: NodeView) -> str:
    record = row.record
    alarms = f' <span class="note">{safe(", ".join(record.alarms))}</span>' if record.alarms else ""
    kind = "ok" if row.state is NodeState.CURRENT else "quiet" if row.state is NodeState.LEAVING else "bad"
    return _row(
        safe(record.node),
        (
            ("State", f'<span><span class="tag {kind}">{safe(row.state)}</span>{alarms}</span>'),
            ("Role", safe(record.role)),
            ("Epoch", f'<span>{record.epoch} <span class="note kid">{short(record.kid)}</span></span>'),
            ("Token", f"<code>{safe(record.token)}</code>"),
            ("Last heard", f"{span(row.age)} ago"),
            ("Version", safe(record.version)),
        ),
    )


# --- tables ---------------------------------------------------------------------------------------


def _table(caption: str, heads: tuple[str, ...], rows: str) -> str:
    """Return a table; its roles are named because a narrow screen shows it as a list, which would take them away."""
    cells = "".join(f'<th scope="col" role="columnheader">{head}</th>' for head in heads)
    return (
        f'<table role="table"><caption>{caption}</caption><thead role="rowgroup"><tr role="row">{cells}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table>'
    )


def _row(head: str, cells: tuple[tuple[str, str], ...]) -> str:
    rest = "".join(f'<td role="cell" data-label="{name}"><div>{value}</div></td>' for name, value in cells)
    return f'<tr role="row"><th scope="row" role="rowheader">{head}</th>{rest}</tr>'
