"""The model page for values and for independent labels, in a real browser."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import ModelProto
from playwright.sync_api import Browser, Page, sync_playwright

from tests.integration.server.test_page import BARS, assert_fits, send, visiting
from tests.support.processes import ONE_PROCESS, Server, serving
from tests.support.tools import tool
from tests.unit.model_server.model.test_outputs import network

FACTS = """() => Object.fromEntries([...document.querySelectorAll("dl div")].map(
    (row) => [...row.children].map((cell) => cell.textContent)))"""
ITEMS = "() => [...document.querySelectorAll('#bars li')].map((item) => item.textContent)"
ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tool("chromium", "chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def serving_network(home: Path, made: ModelProto, setting: str, labels: list[str]) -> Iterator[Server]:
    (home / "model.onnx").write_bytes(made.SerializeToString())
    environment = {"MODEL_FILEPATH": str(home / "model.onnx"), "MODEL_OUTPUT": setting, "LABEL_FILEPATH": ""}
    if labels:
        (home / "label.json").write_text(json.dumps(dict(enumerate(labels))))
        environment["LABEL_FILEPATH"] = str(home / "label.json")
    with serving(home, environment, command=ONE_PROCESS) as server:
        yield server


def fill(page: Page) -> None:
    for index, value in enumerate(ROW):
        page.locator(f"#value-{index}").fill(str(value))
    send(page)


def test_a_value(browser: Browser, tmp_path: Path) -> None:
    with serving_network(tmp_path, network(columns=1), "values", []) as server, visiting(browser, server.url) as page:
        facts = page.evaluate(FACTS)
        assert facts["Output"] == "1 value, float32"
        assert "Classes" not in facts
        assert page.locator("#status").text_content() == "Send the row to see its values."
        fill(page)
        shown = float(page.locator("#status .outcome").text_content() or "nan")
        assert shown == pytest.approx(server.predict([ROW]), rel=1e-5)
        assert not page.locator("#bars").is_visible()
        assert_fits(page)


def test_several_values(browser: Browser, tmp_path: Path) -> None:
    with serving_network(tmp_path, network(), "values", []) as server, visiting(browser, server.url) as page:
        assert page.evaluate(FACTS)["Output"] == "3 values, float32"
        fill(page)
        assert page.locator("#status .outcome").text_content() == "3 values"
        values = [float(item.removeprefix(f"value {index}")) for index, item in enumerate(page.evaluate(ITEMS))]
        assert values == pytest.approx(server.predict([ROW]), rel=1e-5)
        assert_fits(page)


def test_independent_labels(browser: Browser, tmp_path: Path) -> None:
    labels = ["a", "b", "c"]
    with (
        serving_network(tmp_path, network(), "sigmoid_logits", labels) as server,
        visiting(browser, server.url) as page,
    ):
        facts = page.evaluate(FACTS)
        assert (facts["Output"], facts["Labels"]) == ("3 independent probabilities, float32", "a, b, c")
        fill(page)
        probabilities = dict(zip(labels, server.predict([ROW]), strict=True))
        ranked = sorted(labels, key=lambda label: -probabilities[label])
        bars = page.evaluate(BARS)
        assert [name for name, _, _ in bars] == ranked
        assert [width for _, _, width in bars] == pytest.approx([probabilities[label] for label in ranked], abs=0.01)
        found = [label for label in ranked if probabilities[label] >= 0.5]
        assert page.locator("#status .outcome").text_content() == (", ".join(found) or "No label at 50 % or above")
        assert sorted(found) == server.predict([ROW], "/predict/label")
        assert_fits(page)
