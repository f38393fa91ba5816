"""SVG by hand: a canvas with a few shapes, readable on light and dark pages. Pure.

It brings its own background, for a picture on a page cannot know the page's colours.
"""

from html import escape

STYLE = """
text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}.small{font-size:10px}
.page{fill:#fff}.grid{stroke:#d8dee4;stroke-width:1}.goal{stroke:#c2351f;stroke-width:1.5;stroke-dasharray:5 4}
.line{fill:none;stroke-width:2}.right{text-anchor:end}.mid{text-anchor:middle}
.s0{stroke:#2f76c4;fill:#2f76c4}.s1{stroke:#d47a22;fill:#d47a22}.s2{stroke:#3f9457;fill:#3f9457}
.s3{stroke:#bb4f78;fill:#bb4f78}.s4{stroke:#7d68c2;fill:#7d68c2}.s5{stroke:#6b7b8c;fill:#6b7b8c}
.s6{stroke:#9a8419;fill:#9a8419}.s7{stroke:#2b8f8f;fill:#2b8f8f}.line{fill:none}
.cell{stroke:#fff;stroke-width:1}.on{fill:#fff}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#30363d}.cell{stroke:#0d1117}
.goal{stroke:#ff7b6b}}
"""
COLOURS = 8


class Canvas:
    """Shapes, in the order in which they are drawn. Units are pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._shapes: list[str] = []
        self.rect(0, 0, width, height, "page")
        self.text(16, 24, title, "title")

    def rect(self, x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> None:
        """A filled box; `tip` is shown when it is pointed at."""
        box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"'
        self._shapes.append(f"{box}><title>{escape(tip)}</title></rect>" if tip else f"{box}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._shapes.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def path(self, points: list[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        said = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{said}" class="line {kind}"/>')

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words, from a point on the base line."""
        self._shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>')

    def render(self) -> str:
        """The file."""
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        named = f'{head} width="{width}" height="{height}"><title>{escape(self._title)}</title>'
        return "\n".join((named, f"<style>{STYLE}</style>", *self._shapes, "</svg>", ""))
