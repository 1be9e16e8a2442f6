"""A bar chart as SVG, without a plotting library."""

from pathlib import Path

_WIDTH, _NAMES, _BAR, _GAP = 760, 240, 26, 12


def chart(path: Path, title: str, medians: dict[str, dict[str, float]]) -> None:
    """Draw the seconds of each program, fastest first."""
    rows = sorted(medians.items(), key=lambda item: item[1]["seconds"])
    longest = rows[-1][1]["seconds"]
    height = 50 + len(rows) * (_BAR + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="26" font-size="16">{title} model and labels: seconds of the whole process</text>',
    ]
    for number, (name, figures) in enumerate(rows):
        top = 44 + number * (_BAR + _GAP)
        width = figures["seconds"] / longest * (_WIDTH - _NAMES - 80)
        colour = "#1a73e8" if name == "this loader" else "#b0b8c4"
        parts += [
            f'<text x="{_NAMES - 10}" y="{top + 18}" font-size="14" text-anchor="end">{name}</text>',
            f'<rect x="{_NAMES}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_NAMES + width + 8:.1f}" y="{top + 18}" font-size="14">{figures["seconds"]:.2f}</text>',
        ]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
