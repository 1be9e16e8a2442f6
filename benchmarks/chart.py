"""Bar charts as SVG, without a plotting library."""

from collections.abc import Mapping
from pathlib import Path

_WIDTH, _NAMES, _BAR, _GAP = 760, 240, 26, 12
_LARGE = 100  # figures without decimals


def chart(path: Path, title: str, bars: Mapping[str, float], ours: str, faint: str | None = None) -> None:
    """Draw one bar per program, the shortest first.

    Args:
        path: the file to write.
        title: title of the chart, with the unit.
        bars: figure of each program, by its name.
        ours: name of the program to highlight.
        faint: ending of the names of the programs to draw in a lighter colour.
    """
    rows = sorted(bars.items(), key=lambda bar: bar[1])
    longest = rows[-1][1]
    form = ".0f" if longest >= _LARGE else ".2f"
    height = 50 + len(rows) * (_BAR + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="26" font-size="16">{title}</text>',
    ]
    for number, (name, figure) in enumerate(rows):
        top = 44 + number * (_BAR + _GAP)
        width = figure / longest * (_WIDTH - _NAMES - 80)
        colour = "#1a73e8" if name == ours else "#dde1e7" if faint and name.endswith(faint) else "#b0b8c4"
        parts += [
            f'<text x="{_NAMES - 10}" y="{top + 18}" font-size="14" text-anchor="end">{name}</text>',
            f'<rect x="{_NAMES}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_NAMES + width + 8:.1f}" y="{top + 18}" font-size="14">{figure:{form}}</text>',
        ]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
