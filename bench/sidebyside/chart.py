"""A chart as SVG: small panels of bars, one panel a measure, the same order of names in each, ours in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _COLUMNS, _GAP = 940, 2, 36
_MARGIN, _HEAD, _FOOT = 28, 64, 22
_ROW, _BAR, _NAME, _VALUE = 21, 14, 128, 74
_TITLE = 42  # of a panel: its title and what is better

_STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; fill: #24292f }
.sheet { fill: #ffffff } .page { font-size: 19px; font-weight: 600 } .title { font-size: 14px; font-weight: 600 }
.note { font-size: 11.5px; fill: #6e7781 } .end { text-anchor: end } .ours { font-weight: 600 }
.value { font-variant-numeric: tabular-nums } .absent { fill: #8c959f }
.axis { stroke: #d0d7de; stroke-width: 1 } .bar { fill: #aab4bf }
.bar.ours { fill: #0a6e5c } .bar.also { fill: #4fb39f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .sheet { fill: #0d1117 } .note { fill: #9198a1 }
.axis { stroke: #3d444d } .absent { fill: #7d8590 }
.bar { fill: #59636e } .bar.ours { fill: #3fb99f } .bar.also { fill: #25705f }
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    name: str
    value: float | None  # None: it has no such thing
    shown: str
    kind: str = ""  # ours, also ours, or somebody else's


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    note: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return _TITLE + _ROW * len(self.bars)


def svg(title: str, note: str, panels: Sequence[Panel]) -> str:
    """The whole sheet."""
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    height = _HEAD + sum(heights) + _GAP * (len(rows) - 1) + _FOOT + _MARGIN
    width = (_WIDTH - 2 * _MARGIN - _GAP * (_COLUMNS - 1)) / _COLUMNS
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="sheet" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="page" x="{_MARGIN}" y="38">{escape(title)}</text>',
        f'<text class="note" x="{_MARGIN}" y="{height - _FOOT}">{escape(note)}</text>',
    ]
    y = _HEAD
    for row, tall in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            out += _panel(panel, _MARGIN + column * (width + _GAP), y, width)
        y += tall + _GAP
    return "\n".join([*out, "</svg>\n"])


def _panel(panel: Panel, x: float, y: float, width: float) -> list[str]:
    room = width - _NAME - _VALUE
    most = max((bar.value for bar in panel.bars if bar.value is not None), default=0.0) or 1.0
    out = [
        f'<text class="title" x="{x:.1f}" y="{y + 13:.1f}">{escape(panel.title)}</text>',
        f'<text class="note" x="{x:.1f}" y="{y + 29:.1f}">{escape(panel.note)}</text>',
    ]
    top = y + _TITLE
    for number, bar in enumerate(panel.bars):
        middle = top + _ROW * number + _ROW / 2
        line = middle + 4.5  # of the text
        ours = " ours" if bar.kind == "ours" else ""
        out.append(f'<text class="end{ours}" x="{x + _NAME - 8:.1f}" y="{line:.1f}">{escape(bar.name)}</text>')
        if bar.value is None:
            out.append(f'<text class="absent" x="{x + _NAME + 7:.1f}" y="{line:.1f}">{escape(bar.shown)}</text>')
            continue
        long = max(room * bar.value / most, 1.5)
        at = f'x="{x + _NAME:.1f}" y="{middle - _BAR / 2:.1f}" width="{long:.1f}" height="{_BAR}" rx="2"'
        out.append(f'<rect class="bar {bar.kind}" {at}/>')
        after = x + _NAME + long + 7
        out.append(f'<text class="value{ours}" x="{after:.1f}" y="{line:.1f}">{escape(bar.shown)}</text>')
    bottom = top + _ROW * len(panel.bars)
    out.append(f'<line class="axis" x1="{x + _NAME:.1f}" y1="{top:.1f}" x2="{x + _NAME:.1f}" y2="{bottom:.1f}"/>')
    return out
