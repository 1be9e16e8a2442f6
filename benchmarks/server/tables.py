"""The tables and the chart of a run of the servers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from benchmarks.chart import chart
from benchmarks.report import RESULTS, machine, table, write_section
from benchmarks.server.servers import FASTAPI, FLOOR, OURS

Figures = dict[str, float]


def write_tables(results: Mapping[str, Any]) -> None:
    """Write the tables in `benchmarks/README.md`, and the chart."""
    loads = _medians(results["loads"], ("model", "rows", "connections"))
    starts = _medians(results["starts"], ())[()]
    meanwhile = _medians(results["meanwhile"], ("model", "probe"))
    one = loads["iris", 1, 8]
    sections = [
        f"Medians of {results['rounds']} rounds of {results['seconds']:g} s each ({machine()}).",
        "**1 row, 8 connections**, the work of most requests; start and memory are of the whole process tree, at the "
        "first answer and after small and large requests:",
        _one_row(one, starts),
        "**Server CPU microseconds per request**, 8 connections:",
        _grid(loads, "cpu_us", 8),
        "**Requests per second**, 8 connections:",
        _grid(loads, "rps", 8),
    ]
    for connections in (1, 64):
        sections += [
            f"**{connections} connection{'s' * (connections > 1)}**, CPU microseconds per request:",
            _grid(loads, "cpu_us", connections),
        ]
    sections += [
        "**Who else waits** while 8 connections send heavy work, p99 in milliseconds:",
        _meanwhile(meanwhile),
    ]
    if failures := _failures(results):
        sections += ["**What went wrong:**", "\n".join(failures)]
    chart(
        RESULTS / "server.svg",
        "1 row, 8 connections: server CPU microseconds per request",
        {name: figures["cpu_us"] for name, figures in one.items()},
        OURS,
        ".0f",
    )
    write_section("server", "\n\n".join(sections))


def _medians(rows: Iterable[Mapping[str, Any]], key: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Figures]]:
    """Return the median of each figure by key and server."""
    found: dict[tuple[Any, ...], dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        figures = dict(row) | ({"rps": row["requests"] / row["seconds"]} if "requests" in row else {})
        for name, value in figures.items():
            if name not in ("server", "model", "probe"):
                found[tuple(row[part] for part in key)][row["server"]][name].append(value)
    return {
        place: {server: {name: median(values) for name, values in figures.items()} for server, figures in those.items()}
        for place, those in found.items()
    }


def _one_row(one: Mapping[str, Figures], starts: Mapping[str, Figures]) -> str:
    floor, fastapi = one[FLOOR]["cpu_us"], one[FASTAPI]["cpu_us"]
    rows = [
        [
            name,
            f"{figures['rps']:.0f}",
            f"{figures['p50_ms']:.2f}",
            f"{figures['p99_ms']:.2f}",
            f"{figures['cpu_us']:.0f}",
            f"{figures['cpu_us'] / floor:.2f}",
            f"{figures['cpu_us'] / fastapi:.2f}",
            f"{starts[name]['seconds']:.1f}",
            f"{starts[name]['memory_mb']:.0f}",
            f"{starts[name]['used_mb']:.0f}",
        ]
        for name, figures in sorted(one.items(), key=lambda item: item[1]["cpu_us"])
    ]
    head = [
        "server",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU us",
        f"/ {FLOOR}",
        f"/ {FASTAPI}",
        "start s",
        "MB",
        "MB after",
    ]
    return table(head, rows)


def _grid(loads: Mapping[tuple[Any, ...], Mapping[str, Figures]], figure: str, connections: int) -> str:
    places = [place for place in loads if place[2] == connections]
    names = list(dict.fromkeys(name for place in places for name in loads[place]))
    names.sort(key=lambda name: loads["iris", 1, 8][name]["cpu_us"])
    head = ["server", *(f"{rows} x {30 if model == 'wide' else 4}" for model, rows, _ in places)]
    cells = [[name, *(_cell(loads[place].get(name), figure) for place in places)] for name in names]
    return table(head, cells)


def _cell(figures: Figures | None, figure: str) -> str:
    if figures is None:
        return "wrong"
    return f"{figures[figure]:.0f}" if figures["requests"] else "no answer"


def _meanwhile(meanwhile: Mapping[tuple[Any, ...], Mapping[str, Figures]]) -> str:
    columns = {
        ("iris", "health"): ("health_p99_ms", "/health, 10000 rows"),
        ("iris", "row"): ("row_p99_ms", "1 row, 10000 rows"),
        ("slow", "health"): ("health_p99_ms", "/health, a model of 50 ms"),
    }
    names = sorted(meanwhile["slow", "health"], key=lambda name: meanwhile["slow", "health"][name]["health_p99_ms"])
    rows = []
    for name in names:
        cells = [
            f"{meanwhile[place][name][figure]:.1f}" if name in meanwhile[place] else "wrong"
            for place, (figure, _) in columns.items()
        ]
        slow = meanwhile["slow", "health"][name]
        rows.append([name, *cells, f"{slow['rps']:.1f}", f"{slow['p99_ms']:.0f}"])
    head = ["server", *(title for _, title in columns.values()), "its requests/s", "their p99 ms"]
    return table(head, rows)


def _failures(results: Mapping[str, Any]) -> list[str]:
    lines = [f"- {server} does not answer {', '.join(works)}" for server, works in results["wrong"].items() if works]
    errors: dict[tuple[str, str], int] = defaultdict(int)
    for row in (*results["loads"], *results["meanwhile"]):
        if row["errors"]:
            errors[row["server"], f"{row['rows']} rows of {row['model']}, {row['connections']} connections"] += row[
                "errors"
            ]
    return lines + [f"- {server}: {count} errors at {work}" for (server, work), count in errors.items()]
