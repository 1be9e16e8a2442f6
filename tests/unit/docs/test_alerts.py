"""The runbook compared with the alerts and the dashboard."""

import json
import re

import yaml

from tests.support.documents import DOCUMENTS
from tests.support.processes import ROOT

RUNBOOK = DOCUMENTS["docs/operations.md"]
RULES = yaml.safe_load((ROOT / "k8s/monitoring/rules.yml").read_text())["spec"]["groups"]
PANELS = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text())["panels"]


def section(heading: str) -> str:
    """Return the section under a heading of the second level."""
    return RUNBOOK.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_alert_has_its_heading() -> None:
    rules = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
    assert {*re.findall(r"^### (\w+)$", section("Alerts"), re.MULTILINE)} == {rule["alert"] for rule in rules}
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_row_of_the_dashboard_is_described() -> None:
    _, first, *rows = re.findall(r"^\| ([^|]+) \|", section("Read the dashboard"), re.MULTILINE)
    assert first == "the six numbers at the top"
    assert rows == [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert [panel["type"] for panel in PANELS[:7]] == ["stat"] * 6 + ["row"]


def test_panels_are_called_by_their_titles() -> None:
    named = {*re.findall(r'"([A-Z][^"]+)"', section("Read the dashboard") + section("Alerts"))}
    assert named - {panel["title"] for panel in PANELS} == {"Inferences that exceeded their time limit"}  # a message
