"""The keys on a time line: where each phase of a key begins and ends, as an SVG that is as wide as its place.

Positions are percentages and text keeps its size, so that it can be read on a telephone. What has been is by the times
of the keyset; what comes is what this node expects, and is dashed. States differ in shape as well as in colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from keydist.adapters.page_text import calendar, safe, short, span
from keydist.core.keyset import State
from keydist.core.report import KeyReport, KeysetReport

_HOUR, _DAY = 3600, 86_400
_STEPS: Final = (60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY,
                 91 * _DAY, 182 * _DAY, 365 * _DAY)  # fmt: skip
_MOST_TICKS: Final = 5
_MARGIN: Final = 0.03
_LEAST_SPAN: Final = 600
_TOP, _ROW, _BAR, _AXIS = 24, 44, 14, 26
_NEAR, _FAR = 12.0, 88.0
"""Percent: text beyond these would leave the picture, and is set on the other side of its place."""


class Phase(NamedTuple):
    """A state of a key from `start` to `end`; `coming` where that is only expected."""

    state: State
    start: int
    end: int
    coming: bool = False


class Scale(NamedTuple):
    """The times at the left and right edge."""

    start: int
    end: int

    def at(self, time: float) -> float:
        """Return where a time lies, in percent; what lies outside is at the edge."""
        return round(min(100.0, max(0.0, 100 * (time - self.start) / (self.end - self.start))), 2)


def phases(key: KeyReport, *, now: int, activation: int | None) -> tuple[Phase, ...]:
    """Return the phases of a key in order; `activation` is when the next keys are expected to sign, if ever."""
    published = key.created if key.published is None else key.published
    match key.state:
        case State.NEXT:
            past = Phase(State.NEXT, published, max(now, published))
            return (past, *_coming(State.NEXT, past.end, activation))
        case State.ACTIVE:
            begun = published if key.activated is None else key.activated
            past = Phase(State.ACTIVE, begun, max(now, begun))
            return (*_before(published, begun), past, *_coming(State.ACTIVE, past.end, activation))
        case _:
            ended = now if key.retired is None else key.retired
            begun = published if key.activated is None else key.activated
            until = max(ended, now) if key.drops is None else max(key.drops, ended)
            return (*_before(published, begun), Phase(State.ACTIVE, begun, ended), Phase(State.RETIRED, ended, until))


def _before(published: int, begun: int) -> tuple[Phase, ...]:
    return (Phase(State.NEXT, published, begun),) if published < begun else ()


def _coming(state: State, start: int, end: int | None) -> tuple[Phase, ...]:
    return (Phase(state, start, end, coming=True),) if end is not None and end > start else ()


def expected_activation(keyset: KeysetReport, *, now: int) -> int | None:
    """Return when the next keys are expected to sign; None where the policy asks for no rotation."""
    plan = keyset.plan
    return None if plan.due is None else max(plan.due, plan.opens, now)


def scale(rows: tuple[tuple[Phase, ...], ...], *, now: int) -> Scale:
    """Return a scale on which every phase and now have room."""
    start = min([now, *(phase.start for row in rows for phase in row)])
    end = max([now, *(phase.end for row in rows for phase in row)])
    margin = max(_LEAST_SPAN, int((end - start) * _MARGIN))
    return Scale(start - margin, end + margin)


def ticks(found: Scale) -> tuple[int, ...]:
    """Return at most five round times between the edges."""
    length = found.end - found.start
    step = next((step for step in _STEPS if length <= step * _MOST_TICKS), None)
    if step is None:
        step = _STEPS[-1] * (-(-length // (_STEPS[-1] * _MOST_TICKS)))
    first = -(-found.start // step) * step
    return tuple(range(first, found.end + 1, step))


def timeline(keyset: KeysetReport, *, now: int) -> str:
    """Return the figure; the table of keys that follows says the same in words."""
    activation = expected_activation(keyset, now=now)
    keys = tuple(key for key in keyset.keys if key.state in _SHOWN)
    rows = tuple(phases(key, now=now, activation=activation) for key in keys)
    found = scale(rows, now=now)
    bottom = _TOP + _ROW * len(rows)
    tops = tuple(_TOP + _ROW * number for number in range(len(rows)))
    bars = "".join(_bar(phase, found, y=y + 20) for row, y in zip(rows, tops, strict=True) for phase in row)
    labels = "".join(_label(key, y=y + 13) for key, y in zip(keys, tops, strict=True))
    return (
        f'<figure><svg role="img" aria-labelledby="tl-title tl-desc" width="100%" height="{bottom + _AXIS}">'
        f'<title id="tl-title">The keys on a time line</title><desc id="tl-desc">{_words(keys, activation, now)}</desc>'
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
        f"{''.join(_ticks(found, bottom))}{bars}{_now(found.at(now), bottom)}{labels}</svg>{_LEGEND}</figure>"
    )


_SHOWN: Final = (State.NEXT, State.ACTIVE, State.RETIRED)


def _label(key: KeyReport, *, y: int) -> str:
    return f'<text class="label" x="0" y="{y}">{safe(key.state)} · {safe(key.use)} · {short(key.kid)}</text>'


def _bar(phase: Phase, found: Scale, *, y: int) -> str:
    left, right = found.at(phase.start), found.at(phase.end)
    width = max(0.4, round(right - left, 2))
    kind = f"coming {phase.state.value}" if phase.coming else phase.state.value
    return f'<rect class="{kind}" x="{left}%" y="{y}" width="{width}%" height="{_BAR}" rx="3"/>'


def _now(x: float, bottom: int) -> str:
    return (
        f'<line class="now" x1="{x}%" x2="{x}%" y1="16" y2="{bottom}"/>'
        f'<text class="now-text" x="{x}%" y="12" text-anchor="{_anchor(x)}">now</text>'
    )


def _ticks(found: Scale, bottom: int) -> Iterator[str]:
    times = ticks(found)
    step = times[1] - times[0] if len(times) > 1 else _DAY
    for at in times:
        moment, x = calendar(at), found.at(at)
        yield f'<line class="grid" x1="{x}%" x2="{x}%" y1="{_TOP - 4}" y2="{bottom}"/>'
        if moment is not None:
            text = moment.strftime(_form(step, is_first=at == times[0]))
            yield f'<text class="axis" x="{x}%" y="{bottom + 18}" text-anchor="{_anchor(x)}">{text}</text>'


def _form(step: int, *, is_first: bool) -> str:
    """Return how a tick is written: with its day or its year where it is the first, or where steps are that long."""
    if step < _DAY:
        return "%d %b %H:%M" if is_first else "%H:%M"
    return "%d %b %Y" if is_first or step >= _STEPS[-1] else "%d %b"


def _anchor(x: float) -> str:
    return "start" if x < _NEAR else "end" if x > _FAR else "middle"


def _words(keys: tuple[KeyReport, ...], activation: int | None, now: int) -> str:
    """Return what the picture shows as a sentence."""
    counts = ", ".join(
        f"{count} {state.value}" for state in _SHOWN if (count := sum(key.state is state for key in keys))
    )
    rotation = "No rotation is scheduled."
    if activation is not None:
        far = f"The next keys are expected to sign in {span(activation - now)}."
        rotation = far if activation > now else "A rotation is due."
    drops = [key.drops for key in keys if key.drops is not None]
    last = f" The last retired key may go in {span(max(0, max(drops) - now))}." if drops else ""
    return safe(f"{counts} keys. {rotation}{last} The table below has every time.")


def _swatch(kind: str, text: str) -> str:
    box = f'<rect class="{kind}" x="1" y="1" width="26" height="12" rx="3"/>'
    return f'<li><svg aria-hidden="true" viewBox="0 0 28 14">{box}</svg>{text}</li>'


_LEGEND: Final = (
    '<ul class="legend">'
    + _swatch("next", "published, signs next")
    + _swatch("active", "signs")
    + _swatch("retired", "retired, verifies until it may go")
    + _swatch("coming active", "expected")
    + "</ul>"
)
