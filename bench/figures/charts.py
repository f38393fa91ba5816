"""Three pictures: lines, bars, and an icicle of where time goes. Pure: numbers in, SVG out."""

import math
from collections.abc import Mapping, Sequence

from bench.figures.svg import COLOURS, Canvas

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 50
MOST_TICKS = 10
Points = Sequence[tuple[float, float]]


def lines(
    title: str, x_name: str, y_name: str, series: Mapping[str, Points], *, goal: float = 0, log_x: bool = False
) -> str:
    """One line a series, with a dashed one where the goal is. `log_x`: x is a percentile, stretched at its end."""
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
    """One bar a name, lying, with its value."""
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
    """Stacks (outermost first) as boxes that hang from their callers; width is the share of the time.

    `colours` gives a number to a frame. Boxes narrower than two pixels are left out.
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
    """Where there are few values, the values; else round numbers up to the largest."""
    several = sorted(set(values))
    if len(several) <= MOST_TICKS:
        return several
    step = _round_up(several[-1] / MOST_TICKS)
    return [step * n for n in range(int(several[-1] / step) + 1)]


def _x(x: float, percentile: bool) -> float:
    return -math.log10(max(1e-6, 1 - x / 100)) if percentile else x


def _round_up(value: float) -> float:
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 2, 4, 5, 8, 10) if step * size >= value)
