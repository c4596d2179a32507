"""Pictures of boxes and arrows as SVG: one style, readable on light and dark ground.

Coordinates are in pixels. A picture brings its own ground, so that it can stand on any page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

# Widths of the letters of the usual sans-serif fonts, in parts of the font size.
LETTER = 0.56
SIZE, SMALL, LINE = 15, 13, 19
_STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de }
  .box { fill: #f6f8fa; stroke: #8c959f }
  .core { fill: #ddf4ff; stroke: #0969da }
  .good { fill: #dafbe1; stroke: #1a7f37 }
  .bad { fill: #ffebe9; stroke: #cf222e }
  .frame { fill: none; stroke: #8c959f; stroke-dasharray: 5 4 }
  .box, .core, .good, .bad, .frame { stroke-width: 1.5 }
  text { fill: #1f2328; font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
  .head { font-weight: 600 }
  .note { fill: #59636e }
  .line { fill: none; stroke: #59636e; stroke-width: 1.5 }
  .tip { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    .box { fill: #151b23; stroke: #656c76 }
    .core { fill: #121d2f; stroke: #4493f8 }
    .good { fill: #12261e; stroke: #3fb950 }
    .bad { fill: #25171c; stroke: #f85149 }
    .frame { stroke: #656c76 }
    text { fill: #f0f6fc }
    .note, .tip { fill: #9198a1 }
    .line { stroke: #9198a1 }
  }
"""


def width_of(text: str, size: int) -> float:
    """About how wide a text is."""
    wide = sum(1.25 if each.isupper() else 1 for each in text)
    return wide * size * LETTER


@dataclass(frozen=True)
class Box:
    """A box with its texts in the middle: the first line is the head."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height


@dataclass
class Picture:
    """``box``, ``arrow``, ``frame`` and ``note`` draw; ``svg`` is the document."""

    width: int
    height: int
    title: str
    texts: list[str] = field(default_factory=list)
    too_wide: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box"
    ) -> Box:
        """A box with a head and lines below it."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" '
            f'width="{width:g}" height="{height:g}" rx="8"/>'
        )
        first = y + height / 2 - (len(lines) - 1) * LINE / 2 + 5
        for index, line in enumerate(lines):
            size = SMALL if index else SIZE
            if width_of(line, size) > width - 8:
                self.too_wide.append(line)
            style = "note" if index else "head"
            self._text(x + width / 2, first + index * LINE, line, size, style, "middle")
        return Box(x, y, width, height)

    def frame(self, x: float, y: float, width: float, height: float, text: str) -> Box:
        """A dashed frame around others, with a text in its upper left corner."""
        self._parts.append(
            f'<rect class="frame" x="{x:g}" y="{y:g}" '
            f'width="{width:g}" height="{height:g}" rx="10"/>'
        )
        self._text(x + 12, y + 20, text, SMALL, "note", "start")
        return Box(x, y, width, height)

    def arrow(self, *points: tuple[float, float], text: str = "", above: float = 7) -> None:
        """A line through the points with a tip at the last; its text lies on the first piece."""
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<polyline class="line" points="{line}" marker-end="url(#tip)"/>')
        if text:
            (x1, y1), (x2, y2) = points[:2]
            upright = abs(x2 - x1) < abs(y2 - y1)
            x, y = (x1 + x2) / 2 + (8 if upright else 0), (y1 + y2) / 2 + (4 if upright else -above)
            self._text(x, y, text, SMALL, "note", "start" if upright else "middle")

    def note(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        """A text without a box."""
        self._text(x, y, text, SMALL, "note", anchor)

    def _text(self, x: float, y: float, text: str, size: int, style: str, anchor: str) -> None:
        self.texts.append(text)
        self._parts.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" font-size="{size}" '
            f'text-anchor="{anchor}">{escape(text, quote=False)}</text>'
        )

    def svg(self) -> str:
        """The document."""
        size = f'width="{self.width}" height="{self.height}"'
        tip = (
            '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto"><path class="tip" d="M0 0L10 5L0 10z"/></marker>'
        )
        ground = (
            f'<rect class="ground" x="0.5" y="0.5" width="{self.width - 1}" '
            f'height="{self.height - 1}" rx="10"/>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
                f'viewBox="0 0 {self.width} {self.height}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{_STYLE}</style>",
                f"<defs>{tip}</defs>",
                ground,
                *self._parts,
                "</svg>\n",
            ]
        )
