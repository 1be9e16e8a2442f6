"""Tables and chart of a benchmark run of the servers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.chart import chart
from benchmarks.report import RESULTS, machine, table, write_section
from benchmarks.server.servers import BASE, BASE_IN_IMAGE, FASTAPI, FLOOR, OURS, OURS_IN_IMAGE, TUTORIAL

Figures = dict[str, float]
Rounds = dict[int, Figures]

_NOISE = 0.1
_WIDTHS = {"wide": "30", "columns": "12 columns"}
_SINGLE_ROWS = {
    ("iris", 1, 1): "iris, 1 connection",
    ("iris", 1, 8): "8",
    ("iris", 1, 64): "64",
    ("neighbours", 1, 32): "neighbours, 32",
    ("mlp", 1, 32): "perceptron, 32",
}


def write_tables(results: Mapping[str, Any]) -> None:
    """Write the tables to `benchmarks/README.md`, and the chart."""
    loads = _medians(results["loads"], ("model", "rows", "connections"))
    starts = _medians(results["starts"], ())[()]
    meanwhile = _medians(results["meanwhile"], ("model", "probe"))
    one = loads["iris", 1, 8]
    wrong = results["wrong"]
    sections = [
        f"Medians of {results['rounds']} rounds of {results['seconds']:g} s each ({machine()}).",
        '**1 row, 8 connections**. "start s" is the time until the first response. "MB" is the memory of the process '
        'tree then, "MB after" its memory after small and large requests.',
        _one_row(one, starts),
        "**Server CPU microseconds per request**, 8 connections:",
        _grid(loads, "cpu_us", 8, wrong),
        "**Requests per second**, 8 connections:",
        _grid(loads, "rps", 8, wrong),
        "**Requests of one row**, requests per second by model and number of connections:",
        _single_rows(loads, "rps", ".0f"),
        "**Requests of one row**, p99 in milliseconds:",
        _single_rows(loads, "p99_ms", ".2f"),
        "**Requests of one row**, CPU microseconds per request:",
        _single_rows(loads, "cpu_us", ".0f"),
    ]
    for connections in (1, 64):
        sections += [
            f"**{_connections(connections)}**, CPU microseconds per request:",
            _grid(loads, "cpu_us", connections, wrong),
        ]
    sections += [
        "**Latency of other requests** while 8 connections send slow requests, p99 in milliseconds:",
        _meanwhile(meanwhile),
    ]
    if failures := _failures(results):
        sections += ["**Errors:**", "\n".join(failures)]
    chart(
        RESULTS / "server.svg",
        "1 row, 8 connections: server CPU microseconds per request",
        {name: figures["cpu_us"] for name, figures in one.items() if name in starts or name.endswith(TUTORIAL)},
        OURS,
        faint=TUTORIAL,
    )
    write_section("server", "\n\n".join(sections))


def summary(results: Mapping[str, Any]) -> str:
    """Return tables of CPU times, and of the ratios of this server's figures to those of the base."""
    loads = _medians(results["loads"], ("model", "rows", "connections"))
    sections = [f"Medians of {results['rounds']} rounds of {results['seconds']:g} s each ({machine()})."]
    for connections in dict.fromkeys(place[2] for place in loads):
        sections += [
            f"Server CPU microseconds per request, {_connections(connections)}:",
            _grid(loads, "cpu_us", connections, results["wrong"]),
        ]
    names = {row["server"] for row in results["starts"]}
    ratios = [
        _ratios(results, ours, base)
        for ours, base in ((OURS, BASE), (OURS_IN_IMAGE, BASE_IN_IMAGE))
        if {ours, base} <= names
    ]
    if ratios:
        worse = sum(text.count("**") // 2 for text in ratios)
        sections += [*ratios, f"{worse} ratios are worse by more than {_NOISE:.0%} (in bold)."]
    return "\n\n".join([*sections, *_failures(results)])


def _ratios(results: Mapping[str, Any], ours: str, base: str) -> str:
    """Return a table of the ratios of our figures to those of the base, with one row per load."""
    columns = ("CPU", "requests/s", "p99", "start", "memory", "memory after")
    started = {"start": "seconds", "memory": "memory_mb", "memory after": "used_mb"}
    works: list[tuple[str, Mapping[str, Rounds], Mapping[str, str]]] = [
        ("start", _rounds(results["starts"], ())[()], started)
    ]
    for (model, rows, connections), measured in _rounds(results["loads"], ("model", "rows", "connections")).items():
        title = f"{_work(model, rows)}, {_connections(connections)}"
        works.append((title, measured, {"CPU": "cpu_us", "requests/s": "rps", "p99": "p99_ms"}))
    for (model, rows, probe), measured in _rounds(results["meanwhile"], ("model", "rows", "probe")).items():
        title = f"{'/health' if probe == 'health' else '1 row'} during {rows} x 4 ({model})"
        works.append((title, measured, {"requests/s": "rps", "p99": f"{probe}_p99_ms"}))
    cells = [
        [title, *(_ratio(measured.get(ours, {}), measured.get(base, {}), shown.get(column)) for column in columns)]
        for title, measured, shown in works
    ]
    return table([f"{ours} / {base}", *columns], cells)


def _ratio(ours: Rounds, base: Rounds, figure: str | None) -> str:
    """Return the median ratio of a figure over all rounds, in bold if ours is worse by more than the noise."""
    if figure is None:
        return ""
    # Both servers of a round ran under the same conditions.
    ratios = [
        ours[number][figure] / base[number][figure] for number in ours.keys() & base.keys() if base[number][figure]
    ]
    if not ratios:
        return "none"
    ratio = median(ratios)
    worse = ratio < 1 - _NOISE if figure == "rps" else ratio > 1 + _NOISE
    return f"**{ratio:.2f}**" if worse else f"{ratio:.2f}"


def _connections(count: int) -> str:
    return f"{count} connection{'s' * (count > 1)}"


def _medians(rows: Iterable[Mapping[str, Any]], key: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Figures]]:
    """Return the median of each figure, by key and server."""
    return {
        place: {
            server: {name: median(figures[name] for figures in rounds.values()) for name in next(iter(rounds.values()))}
            for server, rounds in servers.items()
        }
        for place, servers in _rounds(rows, key).items()
    }


def _rounds(rows: Iterable[Mapping[str, Any]], key: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Rounds]]:
    """Return the figures of each round, by key and server."""
    found: dict[tuple[Any, ...], dict[str, Rounds]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        figures = dict(row) | ({"rps": row["requests"] / row["seconds"]} if "requests" in row else {})
        found[tuple(row[part] for part in key)][row["server"]][row["round"]] = {
            name: value for name, value in figures.items() if name not in ("server", "model", "probe")
        }
    return found


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
            *(
                f"{starts[name][figure]:{form}}" if name in starts else ""
                for figure, form in {"seconds": ".1f", "memory_mb": ".0f", "used_mb": ".0f"}.items()
            ),
        ]
        for name, figures in sorted(one.items(), key=lambda item: item[1]["cpu_us"])
    ]
    head = [
        "server",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU us",
        f"CPU / {FLOOR}",
        f"CPU / {FASTAPI}",
        "start s",
        "MB",
        "MB after",
    ]
    return table(head, rows)


def _single_rows(loads: Mapping[tuple[Any, ...], Mapping[str, Figures]], figure: str, form: str) -> str:
    names = [name for name, count in _counts(loads, _SINGLE_ROWS).items() if count > 1]
    names.sort(key=lambda name: loads["iris", 1, 8][name]["cpu_us"])
    cells = [
        [name, *(f"{loads[place][name][figure]:{form}}" if name in loads[place] else "" for place in _SINGLE_ROWS)]
        for name in names
    ]
    return table(["server", *_SINGLE_ROWS.values()], cells)


def _grid(
    loads: Mapping[tuple[Any, ...], Mapping[str, Figures]],
    figure: str,
    connections: int,
    wrong: Mapping[str, Sequence[str]],
) -> str:
    places = [place for place in loads if place[2] == connections]
    names = [name for name, places_of in _counts(loads, places).items() if places_of > 1]
    first = loads.get(("iris", 1, 8)) or loads[places[0]]
    names.sort(key=lambda name: first[name]["cpu_us"])
    head = ["server", *(_work(model, rows) for model, rows, _ in places)]
    cells = [
        [
            name,
            *(
                _cell(loads[place].get(name), figure, is_wrong=f"{place[1]} rows of {place[0]}" in wrong.get(name, ()))
                for place in places
            ),
        ]
        for name in names
    ]
    return table(head, cells)


def _counts(
    loads: Mapping[tuple[Any, ...], Mapping[str, Figures]], places: Iterable[tuple[Any, ...]]
) -> Mapping[str, int]:
    """Return the number of loads that each server was measured with."""
    return Counter(name for place in places for name in loads[place])


def _work(model: str, rows: int) -> str:
    return f"{rows} x {_WIDTHS.get(model, '4')}"


def _cell(figures: Figures | None, figure: str, *, is_wrong: bool) -> str:
    if figures is None:
        return "wrong" if is_wrong else ""
    return f"{figures[figure]:.0f}" if figures["requests"] else "no answer"


def _meanwhile(meanwhile: Mapping[tuple[Any, ...], Mapping[str, Figures]]) -> str:
    columns = {
        ("iris", "health"): ("health_p99_ms", "/health, 10000 rows"),
        ("iris", "row"): ("row_p99_ms", "1 row, 10000 rows"),
        ("slow", "health"): ("health_p99_ms", "/health, 50 ms model"),
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
    head = ["server", *(title for _, title in columns.values()), "slow requests/s", "slow p99 ms"]
    return table(head, rows)


def _failures(results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {server} gives no correct answer to {', '.join(works)}"
        for server, works in results["wrong"].items()
        if works
    ]
    errors: dict[tuple[str, str], int] = defaultdict(int)
    for row in (*results["loads"], *results["meanwhile"]):
        if row["errors"]:
            errors[row["server"], f"{row['rows']} rows of {row['model']}, {row['connections']} connections"] += row[
                "errors"
            ]
    return lines + [f"- {server}: {count} errors at {work}" for (server, work), count in errors.items()]
