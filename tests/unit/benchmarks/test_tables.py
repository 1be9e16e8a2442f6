"""Tables of a benchmark run of the servers."""

import json
from typing import Any

from benchmarks.report import RESULTS
from benchmarks.server.servers import BASE, BASE_IN_IMAGE, OURS, OURS_IN_IMAGE
from benchmarks.server.tables import summary

MEASURED: dict[str, Any] = json.loads((RESULTS / "server.json").read_text())


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the table with this heading, by the first cell of each row."""
    lines = text[text.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:])}


def with_base(**factors: float) -> dict[str, Any]:
    """Return the measured results with a base: our server's figures, some multiplied by factors."""
    results = {**MEASURED, "wrong": {}}
    for part in ("starts", "loads", "meanwhile"):
        results[part] = list(MEASURED[part])
        for ours, base in ((OURS, BASE), (OURS_IN_IMAGE, BASE_IN_IMAGE)):
            results[part] += [
                {name: value * factors[name] if name in factors else value for name, value in row.items()}
                | {"server": base}
                for row in MEASURED[part]
                if row["server"] == ours
            ]
    return results


def test_without_a_base_there_are_no_ratios() -> None:
    text = summary(MEASURED)
    assert OURS in rows(text, "server")
    assert "in bold" not in text


def test_a_server_is_compared_with_its_base() -> None:
    ratios = rows(summary(with_base()), f"{OURS} / {BASE}")
    assert ratios["start"] == ["", "", "", "1.00", "1.00", "1.00"]
    assert ratios["1 x 4, 1 connection"] == ["1.00", "1.00", "1.00", "", "", ""]
    assert ratios["/health during 10000 x 4 (iris)"] == ["", "1.00", "1.00", "", "", ""]


def test_only_what_is_worse_than_noise_is_marked() -> None:
    text = summary(with_base(cpu_us=1 / 1.12, requests=1 / 0.85, p99_ms=1 / 1.08, memory_mb=2))
    for ours, base in ((OURS, BASE), (OURS_IN_IMAGE, BASE_IN_IMAGE)):
        ratios = rows(text, f"{ours} / {base}")
        assert ratios["1000 x 30, 8 connections"][:3] == ["**1.12**", "**0.85**", "1.08"]
        assert ratios["start"][3:] == ["1.00", "0.50", "1.00"]
    assert f"\n\n{text.count('**') // 2} ratios are worse" in text


def test_work_that_the_base_does_not_answer_has_no_ratio() -> None:
    results = with_base()
    results["loads"] = [row for row in results["loads"] if row["server"] != BASE or row["rows"] != 100]
    assert rows(summary(results), f"{OURS} / {BASE}")["100 x 4, 8 connections"][:3] == ["none"] * 3
