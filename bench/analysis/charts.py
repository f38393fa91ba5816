"""Draws the benchmarks' pictures as SVG, readable on light and dark pages: lines, bars, and an icicle chart. Pure.

Numbers in, SVG text out. It must not know what the numbers mean.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 50
MAX_TICKS = 10
Points = Sequence[tuple[float, float]]

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


def lines(
    title: str, x_name: str, y_name: str, series: Mapping[str, Points], *, goal: float = 0, log_x: bool = False
) -> str:
    """Draws one line for each series, and a dashed one at the goal.

    `log_x`: x is a percentile, on a scale that widens towards 100 %.
    """
    canvas = Canvas(WIDTH, HEIGHT, title)
    every = [point for points in series.values() for point in points]
    most_y = _round_up(max([goal * 1.1, *(y for _, y in every)], default=1.0) or 1.0)
    most_x = max((_x(x, log_x) for x, _ in every), default=1.0) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * _x(x, log_x) / most_x
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / most_y

    for n in range(5):
        value = most_y * n / 4
        _, y = place(0, value)
        canvas.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        canvas.text(LEFT - 8, y + 4, f"{value:,.4g}", "right small")
    ticks = (0, 50, 90, 99, 99.9, 99.99) if log_x else _ticks([x for x, _ in every])
    for tick in ticks:
        x, _ = place(tick, 0)
        if x <= WIDTH - RIGHT + 1:
            canvas.text(x, HEIGHT - BOTTOM + 16, f"{tick:,g}", "mid small")
    canvas.text((LEFT + WIDTH) / 2, HEIGHT - 12, x_name, "mid")
    canvas.text(16, TOP - 16, y_name, "small")
    if goal:
        _, y = place(0, goal)
        canvas.line(LEFT, y, WIDTH - RIGHT, y, "goal")
    for n, (name, points) in enumerate(series.items()):
        canvas.path([place(x, y) for x, y in points], f"s{n % COLOURS}")
        canvas.rect(LEFT + 130 * n + 60, TOP - 26, 10, 10, f"s{n % COLOURS}")
        canvas.text(LEFT + 130 * n + 75, TOP - 17, name, "small")
    return canvas.render()


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """Draws one horizontal bar for each name, with its value."""
    step, name_width = 28, 30 + 7 * max(map(len, values), default=0)
    canvas = Canvas(WIDTH, 50 + step * len(values), title)
    most = max(values.values(), default=0.0) or 1.0
    for n, (name, value) in enumerate(values.items()):
        y = 40 + step * n
        canvas.text(name_width - 8, y + 15, name, "right")
        canvas.rect(name_width, y, (WIDTH - name_width - 110) * value / most, step - 8, f"s{n % COLOURS}")
        figure = f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
        canvas.text(name_width + (WIDTH - name_width - 110) * value / most + 8, y + 15, f"{figure} {unit}")
    return canvas.render()


def icicle(title: str, weights: Mapping[tuple[str, ...], int], colours: Mapping[str, int]) -> str:
    """Draws stacks (outermost frame first): each frame is a box below its caller, as wide as its share of time.

    `colours`: the number of each frame's colour. Boxes narrower than two pixels are left out.
    """
    whole = sum(weights.values()) or 1
    row, width = 17, 1200
    boxes: list[tuple[int, float, float, str, int]] = []

    def hang(inside: Mapping[tuple[str, ...], int], depth: int, start: float) -> None:
        below: dict[str, dict[tuple[str, ...], int]] = {}
        for stack, count in inside.items():
            if len(stack) > depth:
                below.setdefault(stack[depth], {})[stack] = count
        for frame, stacks in sorted(below.items(), key=lambda item: -sum(item[1].values())):
            count = sum(stacks.values())
            size = width * count / whole
            if size >= 2:
                boxes.append((depth, start, size, frame, count))
                hang(stacks, depth + 1, start)
            start += size

    hang(weights, 0, 0.0)
    deepest = max((box[0] for box in boxes), default=0)
    canvas = Canvas(width, 40 + row * (deepest + 1) + 8, title)
    for depth, start, size, frame, count in boxes:
        y = 40 + row * depth
        canvas.rect(start, y, size, row, f"cell s{colours.get(frame, 5)}", f"{frame}: {100 * count / whole:.1f} %")
        if size > 40:
            canvas.text(start + 3, y + 12, frame[: int(size / 5.6)], "small on")
    return canvas.render()


def _ticks(values: Sequence[float]) -> list[float]:
    """The values themselves where they are few, else round numbers up to the largest."""
    several = sorted(set(values))
    if len(several) <= MAX_TICKS:
        return several
    step = _round_up(several[-1] / MAX_TICKS)
    return [step * n for n in range(int(several[-1] / step) + 1)]


def _x(x: float, percentile: bool) -> float:
    return -math.log10(max(1e-6, 1 - x / 100)) if percentile else x


def _round_up(value: float) -> float:
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 2, 4, 5, 8, 10) if step * size >= value)


class Canvas:
    """An SVG picture: shapes in the order in which they are drawn. Units are pixels.

    It brings its own background, because a picture cannot know the colours of the page around it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._shapes: list[str] = []
        self.rect(0, 0, width, height, "page")
        self.text(16, 24, title, "title")

    def rect(self, x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> None:
        """Draws a filled box; `tip` is shown when the pointer is over it."""
        box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"'
        self._shapes.append(f"{box}><title>{escape(tip)}</title></rect>" if tip else f"{box}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draws a straight line."""
        self._shapes.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def path(self, points: list[tuple[float, float]], kind: str) -> None:
        """Draws a line through points."""
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{coordinates}" class="line {kind}"/>')

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Writes text from a point on the base line."""
        self._shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>')

    def render(self) -> str:
        """Returns the content of the SVG file."""
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        named = f'{head} width="{width}" height="{height}"><title>{escape(self._title)}</title>'
        return "\n".join((named, f"<style>{STYLE}</style>", *self._shapes, "</svg>", ""))
