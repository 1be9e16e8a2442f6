"""The alert rules and the dashboard, with promtool and with a real Prometheus that scrapes a real server."""

import contextlib
import itertools
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.processes import IRIS, ONE_PROCESS, ROOT, SERVICES, Server, free_port, run_loader, serving, until
from tests.support.tools import tool
from tests.support.wire import answer, connect, request

MONITORING = ROOT / "k8s" / "monitoring"
BASE = ROOT / "k8s" / "base"
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
CASES = sorted(Path(__file__).parent.glob("*_test.yml"))
MANIFEST = yaml.safe_load((MONITORING / "rules.yml").read_text())
RECORDS_AND_RULES: list[dict[str, Any]] = [rule for group in MANIFEST["spec"]["groups"] for rule in group["rules"]]
RULES = [rule for rule in RECORDS_AND_RULES if "alert" in rule]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCALING = yaml.safe_load((ROOT / "k8s" / "overlays" / "keda" / "scaled-object.yml").read_text())["spec"]["triggers"]
QUERIES: list[str] = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(trigger["metadata"]["query"].replace('"model-load"', '"$namespace"') for trigger in SCALING),
]
VARIABLES = {"$namespace": "a-namespace", "$pod": "a-pod", "$__rate_interval": "10m"}
TARGET = {  # the labels that Kubernetes discovery gives the server's port
    "__meta_kubernetes_namespace": "a-namespace",
    "__meta_kubernetes_pod_name": "a-pod",
    "__meta_kubernetes_pod_phase": "Running",
    "__meta_kubernetes_pod_label_app_kubernetes_io_name": "model-load-server",
    "__meta_kubernetes_pod_container_port_name": "http",
}
KUBE_STATE_METRICS = "kube_"  # prefix of the metrics from kube-state-metrics
ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture
def extracted(tmp_path: Path) -> Path:
    """The rules in Prometheus' own format, extracted with the command in the documentation."""
    [command] = re.findall(r"^\$ (sed .*k8s/monitoring/rules\.yml > .*)$", DEPLOYMENT, re.MULTILINE)
    rules = tmp_path / "model-load-server.rules.yml"
    subprocess.run(command.replace(rules.name, str(rules)), shell=True, cwd=ROOT, check=True)  # noqa: S602
    return rules


def promtool(*arguments: object) -> None:
    run = subprocess.run(
        [tool("promtool", "prometheus"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_rules(extracted: Path) -> None:
    assert yaml.safe_load(extracted.read_text()) == MANIFEST["spec"]
    promtool("check", "rules", "--lint=all", "--lint-fatal", extracted)
    extracted.rename(extracted.with_name("rules.yml"))
    promtool("test", "rules", *(shutil.copy(cases, extracted.parent) for cases in CASES))


def test_each_rule_has_cases_that_fire_and_that_do_not() -> None:
    fired = set()
    for case in (case for cases in CASES for case in yaml.safe_load(cases.read_text())["tests"]):
        expected = [
            dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
            for check in case["promql_expr_test"]
            for sample in check.get("exp_samples", [])
        ]
        assert {labels["alertname"] for labels in expected} == {case["name"]}
        assert any("exp_samples" not in check for check in case["promql_expr_test"])
        fired |= {(labels["alertname"], labels["severity"]) for labels in expected}
    assert fired == {(rule["alert"], rule["labels"]["severity"]) for rule in RULES}


def test_alerts_say_what_to_do() -> None:
    for rule in RULES:
        assert rule["for"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert " First " in rule["annotations"]["description"]
    rows = re.findall(r"^\| (Model\w+) \| (\w+) \|", DEPLOYMENT, re.MULTILINE)
    assert sorted(rows) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in RULES)


def test_names_match_the_manifests() -> None:
    deployment, autoscaler = (yaml.safe_load((BASE / name).read_text()) for name in ("deployment.yml", "hpa.yml"))
    [labels] = (entry["pairs"] for entry in yaml.safe_load((BASE / "kustomization.yml").read_text())["labels"])
    pod = deployment["spec"]["template"]["spec"]
    names = {
        "deployment": {deployment["metadata"]["name"]},
        "container": {container["name"] for container in pod["initContainers"]},
        "horizontalpodautoscaler": {autoscaler["metadata"]["name"]},
        "job": set(labels.values()),
    }
    for label, known in names.items():
        used = {name for query in (*QUERIES, *(rule["expr"] for rule in RULES)) for name in matched(label, query)}
        assert used == known
    monitor = yaml.safe_load((MONITORING / "pod-monitor.yml").read_text())["spec"]
    assert monitor["selector"]["matchLabels"] == labels
    assert monitor["namespaceSelector"] == {"any": True}
    assert {monitor["jobLabel"]} == set(labels)
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["containers"][0]["ports"]}


def matched(label: str, query: str) -> list[str]:
    """Return the values that the query's selectors require for a label."""
    return re.findall(rf'\b{label}="([^"$]*)"', query)


def test_dashboard_is_complete() -> None:
    panels = DASHBOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = Counter(
        cell
        for position in (panel["gridPos"] for panel in panels)
        for cell in itertools.product(
            range(position["x"], position["x"] + position["w"]), range(position["y"], position["y"] + position["h"])
        )
    )
    assert set(cells.values()) == {1}
    assert {x for x, _ in cells} == set(range(24))
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for owner in (panel, *panel["targets"]):
            assert owner["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "namespace", "pod"]


class Prometheus:
    """A client for a running Prometheus."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer, which must be successful."""
        response = self._client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, f"{parameters}: {response.text}"
        return response.json()["data"]

    def values(self, query: str) -> list[float]:
        """Return the current values of a query."""
        return [float(sample["value"][1]) for sample in self.get("query", query=query)["result"]]

    def scrapes(self) -> float:
        """Return the number of successful scrapes."""
        return sum(self.values("sum_over_time(up[1h])"))


@contextlib.contextmanager
def prometheus(home: Path, server: Server) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the server, configured as in the documentation.

    Debian's package is built without Kubernetes discovery, so static targets replace the cluster's.
    """
    [documented] = re.findall(r"^```yaml\n(rule_files:.*?)^```", DEPLOYMENT, re.MULTILINE | re.DOTALL)
    configuration = yaml.safe_load(documented)
    [scraping] = configuration["scrape_configs"]
    assert scraping.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    others = (
        {"__meta_kubernetes_pod_phase": "Failed"},
        {"__meta_kubernetes_pod_label_app_kubernetes_io_name": "another"},
        {"__meta_kubernetes_pod_container_port_name": "another"},
    )
    scraping["static_configs"] = [
        {"targets": [httpx.URL(server.url).netloc.decode()], "labels": TARGET},
        *({"targets": ["127.0.0.1:1"], "labels": {**TARGET, **other}} for other in others),
    ]
    scraping |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    configuration["global"] = {"evaluation_interval": "1s"}
    (home / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    with (home / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus", "prometheus"),
                f"--config.file={home / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'prometheus'}",
                f"--web.listen-address={address}",
            ],
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
            until(lambda: is_up(client, process, home / "prometheus.log"), 60)
            yield Prometheus(client)
    finally:
        process.kill()
        process.wait()


def is_up(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Return whether Prometheus is ready.

    Raises:
        RuntimeError: its process has ended.
    """
    if process.poll() is not None:
        raise RuntimeError(f"Prometheus ended with {process.returncode}:\n{log.read_text()}")
    with contextlib.suppress(httpx.TransportError):
        return client.get("/-/ready").status_code == 200
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server for the iris model, which the loader loaded, with at most one request in flight."""
    volume = {
        "MODEL_FILEPATH": str(tmp_path / "volume/model.onnx"),
        "LABEL_FILEPATH": str(tmp_path / "volume/label.json"),
    }
    run_loader({**volume, "USE_LOCAL_MODEL": "true", "LOCAL_MODEL_FILEPATH": IRIS["MODEL_FILEPATH"]})
    environment = {**volume, **SERVICES, "MAX_REQUESTS_IN_FLIGHT": "1", "GATE": str(tmp_path / "gate")}
    with serving(tmp_path, environment, "gated:Gated", ONE_PROCESS) as running:
        yield running


def refuse(server: Server, gate: Path) -> None:
    """Send a request that is refused while another one waits for the model."""
    gate.touch()
    with connect(server) as waiting:
        waiting.sendall(request(b'{"data": [[9, 9, 9, 9], [1, 1, 1, 1]]}'))
        until(gate.with_name("begun").exists)
        assert server.client.post("/predict", json={"data": ROW}).status_code == 503
        gate.unlink()
        assert answer(waiting).status == 200


@pytest.mark.usefixtures("extracted")
def test_every_query_finds_data(server: Server, tmp_path: Path) -> None:
    refuse(server, tmp_path / "gate")
    server.predict(ROW, "/predict/label")
    with prometheus(tmp_path, server) as database:
        until(lambda: database.scrapes() >= 1, 60)
        server.predict(ROW)
        assert len(database.get("targets", state="active")["activeTargets"]) == 1
        seen = database.scrapes()
        until(lambda: database.scrapes() >= seen + 2, 60)

        for query in QUERIES:
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)  # noqa: PLW2901
            assert "$" not in query
            values = database.values(query)
            if KUBE_STATE_METRICS not in query:
                assert values, f"no data for {query}"
                assert not any(map(math.isnan, values)), f"NaN for {query}"
        for variable in DASHBOARD["templating"]["list"][1:]:
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            selector = selector.replace("$namespace", VARIABLES["$namespace"])
            values = database.get(f"label/{label}/values", **{"match[]": selector})
            assert values == [VARIABLES[f"${variable['name']}"]]

        until(lambda: all(rule["health"] != "unknown" for rule in loaded(database)), 60)
        assert [(rule["name"], rule["health"]) for rule in loaded(database)] == [
            (rule.get("alert") or rule["record"], "ok") for rule in RECORDS_AND_RULES
        ]
        selectors = {found for rule in RULES for found in re.findall(r"\b[a-z_]+\{[^}]*\}", rule["expr"])}
        for selector in selectors:
            assert selector.startswith(KUBE_STATE_METRICS) or database.values(selector), f"no data for {selector}"


def loaded(database: Prometheus) -> list[dict[str, Any]]:
    """Return the rules with their state in Prometheus."""
    [group] = database.get("rules")["groups"]
    return list(group["rules"])
