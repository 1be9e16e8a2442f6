"""The page about the model, in a real browser."""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from onnx import ModelProto, TensorProto
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from tests.support.classifiers import classifier, save
from tests.support.fake_gcs import fake_gcs_server, storage_client
from tests.support.pipelines import LABELS, PORTS, TOPICS, sums, text_classifier, titanic
from tests.support.processes import IRIS, ONE_PROCESS, ROOT, Server, free_port, run_loader, serving, until
from tests.support.tools import tool

SCREENSHOTS = ROOT / "build" / "screenshots"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1000, "height": 690}},
    "dark": {"viewport": {"width": 1000, "height": 690}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 690}},
}
TIMEOUT_MS = 30_000
BARS = """() => [...document.querySelectorAll("#bars li")].map((bar) => [
    bar.querySelector("bdi").textContent,
    bar.querySelector("span").textContent,
    bar.lastChild.lastChild.getBoundingClientRect().width / bar.lastChild.getBoundingClientRect().width,
])"""
HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tool("chromium", "chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(
    browser: Browser, url: str, proxy: Callable[[Route], None] | None = None, **options: Any
) -> Iterator[Page]:
    """Open the page, and assert at the end that it had no errors and sent no requests to other URLs.

    Args:
        browser: the browser.
        url: the URL below which all requests must be.
        proxy: answers the requests in place of that URL.
        options: options for the browser context.
    """
    complaints: list[str] = []
    requested: set[str] = set()

    def note(message: ConsoleMessage) -> None:
        # The browser reports each answer with a status of 400 or more.
        if message.type in ("warning", "error") and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    with contextlib.closing(browser.new_context(reduced_motion="reduce", **options)) as context:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requested.add(request.url))
        if proxy:
            page.route(f"{url}/**", proxy)
        page.goto(f"{url}/")
        yield page
        page.unroute_all(behavior="wait")  # a proxied request that is in flight would fail in the next test
    assert complaints == []
    assert [other for other in requested if not other.startswith((f"{url}/", f"blob:{url}/"))] == []


@contextlib.contextmanager
def serving_model(
    home: Path, labels: list[str], *, file: str = "model.onnx", port: int | None = None, **options: Any
) -> Iterator[Server]:
    """Serve a classifier from a file called `file`; the other options are those of `classifier`."""
    model_path, label_path = save(classifier(classes=len(labels), **options), home, labels)
    environment = {"MODEL_FILEPATH": str(model_path.rename(home / file)), "LABEL_FILEPATH": str(label_path)}
    with serving(home, environment, command=ONE_PROCESS, port=port) as server:
        yield server


def send(page: Page) -> None:
    page.get_by_role("button", name="Predict").click()
    page.locator("#answer").wait_for()


def assert_shows(page: Page, server: Server, row: object) -> None:
    """Assert that the page shows the server's answer to this row: the label and the ten most probable classes."""
    probabilities = server.predict([row])
    labels = list(server.client.get("/label").json().values())
    ranked = sorted(range(len(labels)), key=lambda index: -probabilities[index])[:10]
    bars = page.evaluate(BARS)
    assert [name for name, _, _ in bars] == [labels[index] for index in ranked]
    assert [float(percent.strip("< %")) for _, percent, _ in bars] == pytest.approx(
        [100 * probabilities[index] for index in ranked], abs=0.011
    )
    assert [width for _, _, width in bars] == pytest.approx([probabilities[index] for index in ranked], abs=0.01)
    assert page.locator("#status bdi").text_content() == server.predict([row], "/predict/label")
    assert json.loads(page.locator("#raw").text_content() or "") == {"prediction": probabilities}


def assert_fits(page: Page) -> None:
    """Assert that the page fits a narrow window without horizontal scrolling, and that axe-core finds no violation."""
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert Axe().run(page).response["violations"] == []


def test_iris_by_keyboard(browser: Browser, iris: Server) -> None:
    with visiting(browser, iris.url) as page:
        assert page.title() == "iris_svc.onnx · Model server"
        assert page.locator("input").count() == 4
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "value-0":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.get_by_label("sepal length (cm)").input_value() == "5.1"
        for value in ("6.3", "3.3", "6.0", "2.5"):
            page.keyboard.press("Control+A")
            page.keyboard.type(value)
            page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.locator("#answer").wait_for()
        assert_shows(page, iris, [6.3, 3.3, 6.0, 2.5])
        assert page.locator("#status bdi").text_content() == "virginica"
        assert re.fullmatch(r"Answered in \d+\.\d ms, request [\w-]+", page.locator("#sent").text_content() or "")
        page.get_by_role("button", name="Reset").press("Enter")
        assert page.get_by_label("petal width (cm)").input_value() == "0.2"
        assert_fits(page)


def test_an_error_is_shown_next_to_its_field(browser: Browser, iris: Server) -> None:
    with visiting(browser, iris.url) as page:
        for value, detail in (
            ("", "petal length (cm) is empty; expected a number"),
            ("1e39", "data[0][2] is 1e+39; expected"),
        ):
            page.get_by_label("petal length (cm)").fill(value)
            page.keyboard.press("Enter")
            page.get_by_role("alert").get_by_text(detail).wait_for()
            assert page.locator("[aria-invalid]").evaluate_all("all => all.map((one) => one.id)") == ["value-2"]
            assert page.evaluate("document.activeElement.id") == "value-2"
            assert_fits(page)
        page.keyboard.press("Control+A")
        page.keyboard.type("1.4")
        send(page)
        assert (page.locator("#problem").is_visible(), page.locator("[aria-invalid]").count()) == (False, 0)
        page.context.set_offline(True)
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("alert").get_by_text("The server did not answer").wait_for()
        assert not page.locator("#answer").is_visible()


def test_the_command_does_what_the_form_does(browser: Browser, iris: Server) -> None:
    with visiting(browser, iris.url) as page:
        page.get_by_label("petal length (cm)").fill("4.75")
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("Copied.").wait_for()
        command = page.evaluate("getSelection().toString()")
    run = subprocess.run(["bash", "-c", f"{command} --silent"], capture_output=True, check=True)  # noqa: S607
    assert json.loads(run.stdout) == {"prediction": iris.predict([[5.1, 3.5, 4.75, 0.2]])}


def test_page_and_reference_below_a_path(browser: Browser, iris: Server) -> None:
    url = f"{iris.url}/ml/iris"

    def pass_on(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(url, iris.url)))

    with visiting(browser, url, pass_on) as page:
        send(page)
        assert_shows(page, iris, [5.1, 3.5, 1.4, 0.2])
        assert f"'{url}/predict'" in (page.locator("#command").text_content() or "")
        page.get_by_role("link", name="API reference").click()
        page.locator("[data-path='/predict/label']").wait_for()


def test_columns_have_a_field_each(browser: Browser, tmp_path: Path) -> None:
    model_path, label_path = save(titanic(), tmp_path, LABELS)
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}
    with (
        serving(tmp_path, environment, command=ONE_PROCESS) as server,
        visiting(browser, server.url) as page,
    ):
        page.get_by_text("6 columns").first.wait_for()
        page.get_by_label("age").fill("31.5")
        page.get_by_label("siblings").fill("2")
        page.get_by_label("alone").check()
        assert page.get_by_label("port").locator("option").all_text_contents() == PORTS
        page.get_by_label("sex").select_option(label="male")
        send(page)
        row = {"age": 31.5, "fare": 0, "siblings": 2, "alone": True, "sex": "male", "port": PORTS[0]}
        assert_shows(page, server, row)
        assert_fits(page)
        for field, value, detail in (
            ("fare", "", "fare is empty; expected a number"),
            ("siblings", "0.5", "data[0].siblings is 0.5; expected a whole number"),
        ):
            page.get_by_label(field).fill(value)
            page.keyboard.press("Enter")
            page.get_by_role("alert").get_by_text(detail).wait_for()
            assert page.evaluate("document.activeElement.labels[0].textContent") == field
            assert_fits(page)
            page.get_by_label(field).fill("1")
        page.get_by_role("button", name="Reset").click()
        assert page.get_by_label("sex").input_value() == '"female"'


def test_columns_of_lists_and_names_with_spaces(browser: Browser, tmp_path: Path) -> None:
    made = renamed(sums(), {"one": "the one", "three": HOSTILE})
    model_path, label_path = save(made, tmp_path, ["a", "b", "c"])
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}
    with (
        serving(tmp_path, environment, command=ONE_PROCESS) as server,
        visiting(browser, server.url) as page,
    ):
        page.locator("#value-1").fill("[1, 2, 3]")
        send(page)
        assert_shows(page, server, {"the one": 0, HOSTILE: [1, 2, 3]})
        for field, value, detail in (
            ("#value-0", "1e39", 'data[0]["the one"] is 1e+39; expected'),
            ("#value-1", "[1, 2]", "has length 2; expected 3 numbers"),
            ("#value-1", "[1, 2", "The row is not valid JSON"),
        ):
            page.locator(field).fill(value)
            page.keyboard.press("Enter")
            page.get_by_role("alert").get_by_text(detail).wait_for()
            assert f"#{page.evaluate('document.activeElement.id')}" == field
            page.locator("#value-0").fill("1")
        assert page.evaluate("window.ran") is None


def renamed(made: ModelProto, names: dict[str, str]) -> ModelProto:
    """Return a model with other names for its inputs."""
    changed = ModelProto()
    changed.CopyFrom(made)
    for found in changed.graph.input:
        found.name = names[found.name]
    for node in changed.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return changed


def test_text(browser: Browser, tmp_path: Path) -> None:
    model_path, label_path = save(text_classifier(), tmp_path, TOPICS)
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}
    with (
        serving(tmp_path, environment, command=ONE_PROCESS) as server,
        visiting(browser, server.url) as page,
    ):
        page.get_by_text("1 text").first.wait_for()
        text = 'The "Moon"\nand the team\\'
        page.get_by_label("value 0").fill(text)
        send(page)
        assert_shows(page, server, [text])
        assert_fits(page)
        assert "'\\''" not in (page.locator("#command").text_content() or "")


def test_a_cached_page_is_not_sent_again(iris: Server) -> None:
    page = iris.client.get("/")
    again = iris.client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (page.headers["cache-control"], again.status_code, again.content) == ("no-cache", 304, b"")


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    labels = [HOSTILE, "\u202eevil\u2067 \" ' & <!-- \\", "é" * 3000, "😀 שלום", "{{ served }}", " "]
    names = [HOSTILE, "\u202ename" * 50, "{{ served }}", ""]
    file = "<b onclick=a> ' & é %41.onnx"
    with (
        serving_model(tmp_path, labels, file=file, properties={"feature_names": json.dumps(names)}) as server,
        visiting(browser, server.url) as page,
    ):
        assert page.get_by_role("heading", level=1).text_content() == file
        assert [page.locator(f"label[for=value-{index}]").text_content() for index in range(4)] == [
            *names[:3],
            "value 3",
        ]
        assert page.locator("#facts bdi").all_text_contents() == [*labels[:-1], '" "']
        assert page.locator("#facts code").first.text_content() == (tmp_path / file).as_uri()
        send(page)
        assert [name for name, _, _ in page.evaluate(BARS)] == [*labels[:-1], '" "']
        assert page.locator("#status bdi").text_content() == labels[0]
        assert page.evaluate("window.ran") is None
        assert_fits(page)


def test_injected_markup_could_do_nothing(browser: Browser, iris: Server) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(iris.url)
        # The browser would refuse the same in a name that the page failed to escape.
        page.evaluate("""(html) => {
            window.refused = [];
            addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            document.body.insertAdjacentHTML("beforeend", html);
            document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
            fetch("http://localhost:9/", { mode: "no-cors" }).catch(() => {});
        }""", "<img src=x onerror='window.ran = 1'><p onclick='1' style='color: red'><base href='/x/'>")  # fmt: skip
        directives = {"base-uri", "connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-attr"}
        until(lambda: set(page.evaluate("refused")) == directives, TIMEOUT_MS / 1000)
        assert page.evaluate("window.ran") is None


def test_image(browser: Browser, tmp_path: Path) -> None:
    labels = [f"digit {index}" for index in range(10)]
    with (
        serving_model(tmp_path, labels, input_type=TensorProto.FLOAT16, row_shape=(1, 28, 28), batch=1) as server,
        visiting(browser, server.url) as page,
    ):
        page.get_by_text("1 × 28 × 28 numbers, float16").first.wait_for()  # noqa: RUF001
        send(page)
        assert_shows(page, server, [[[0] * 28] * 28])
        row = [[[column * line / 729 for column in range(28)] for line in range(28)]]
        page.get_by_label("One row, as JSON").fill(json.dumps(row))
        send(page)
        assert_shows(page, server, row)
        assert page.locator("#bars li").count() == 10
        assert not page.locator("#more").is_visible()
        for text, detail in (
            ("[[[0", "The row is not valid JSON"),
            ("[1], [2]", "The row is not valid JSON"),
            ("[[[0]]]", "data[0][0] has length 1; expected 28 lists. (Status 400, request "),
        ):
            page.get_by_label("One row, as JSON").fill(text)
            page.get_by_role("button", name="Predict").click()
            page.get_by_role("alert").get_by_text(detail).wait_for()
            assert page.evaluate("document.activeElement.id") == "row"
        page.get_by_label("One row, as JSON").fill(json.dumps(row))
        with page.expect_download() as download:
            page.get_by_role("button", name="Save row.json").click()
        assert json.loads(download.value.path().read_text()) == {"data": [row]}
        assert (page.locator("#command").text_content() or "").endswith(" -d @row.json")
        assert_fits(page)


def test_a_thousand_classes(browser: Browser, tmp_path: Path) -> None:
    labels = [f"class {index}" for index in range(1200)]
    with (
        serving_model(tmp_path, labels, input_type=TensorProto.UINT8, row_shape=(784,), zip_map=True) as server,
        visiting(browser, server.url) as page,
    ):
        page.get_by_text("784 whole numbers from 0 to 255, uint8").first.wait_for()
        assert page.get_by_role("link", name="1190 more").get_attribute("href") == "label"
        send(page)
        assert_shows(page, server, [0] * 784)
        for text, shown in (("Show 1000 more of 1200 classes", 1010), ("Show all 1200 classes", 1200)):
            page.get_by_role("button", name=text).click()
            assert page.locator("#bars li").count() == shown
        names = [name for name, _, _ in page.evaluate(BARS)]
        assert sorted(names) == sorted(labels)
        assert not page.locator("#more").is_visible()


def test_a_row_of_one_large_integer(browser: Browser, tmp_path: Path) -> None:
    sample = 2**60 + 1
    options: dict[str, Any] = {"row_shape": (), "properties": {"data_sample": f"[{sample}]"}}
    with (
        serving_model(tmp_path, ["no", "yes"], input_type=TensorProto.INT64, **options) as server,
        visiting(browser, server.url) as page,
    ):
        assert page.get_by_label("value 0").input_value() == str(sample)
        with page.expect_request("**/predict") as request:
            send(page)
        assert request.value.post_data == f'{{"data": [{sample}]}}'
        assert_shows(page, server, sample)
        page.get_by_label("value 0").fill("0.5")
        page.keyboard.press("Enter")
        page.get_by_text("data[0] is 0.5; expected a whole number from -9223372036854775808 to").wait_for()
        assert page.evaluate("document.activeElement.id") == "value-0"


def test_a_replaced_model_is_announced_on_the_page(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    homes = tmp_path / "1", tmp_path / "2"
    for home in homes:
        home.mkdir()
    with contextlib.ExitStack() as stack:
        boxes: dict[str, Any] = {"input_type": TensorProto.BOOL, "row_shape": (5,)}
        with serving_model(homes[0], ["no", "yes"], port=port, **boxes) as server:
            page = stack.enter_context(visiting(browser, server.url))
            assert page.get_by_role("checkbox").count() == 5
            page.get_by_label("value 1").press("Space")
            page.get_by_label("value 4").press("Space")
            send(page)
            assert_shows(page, server, [0, 1, 0, 0, 1])
            assert_fits(page)
        free: dict[str, Any] = {"input_type": TensorProto.INT8, "row_shape": ("height", 2)}
        with serving_model(homes[1], ["cat", "dog"], port=port, **free) as server:
            page.get_by_role("button", name="Predict").click()
            page.get_by_role("alert").get_by_role("link", name="Reload the page").click()
            page.get_by_text("n × 2 whole numbers from -128 to 127, int8").first.wait_for()  # noqa: RUF001
            page.get_by_label("One row, as JSON").fill("[[1, -2], [3, 4], [5, 6]]")
            send(page)
            assert_shows(page, server, [[1, -2], [3, 4], [5, 6]])


def test_a_model_from_the_loader(browser: Browser, tmp_path: Path) -> None:
    """Also write screenshots of the page to build/screenshots."""
    name, labels = "iris/1/model.onnx", "iris/1/label.json"
    environment = {
        "MODEL_FILEPATH": str(tmp_path / "volume" / "model.onnx"),
        "LABEL_FILEPATH": str(tmp_path / "volume" / "label.json"),
    }
    with fake_gcs_server(tmp_path / "buckets") as url:
        bucket = storage_client(url).create_bucket("models")
        model, label = bucket.blob(name), bucket.blob(labels)
        model.upload_from_filename(IRIS["MODEL_FILEPATH"])
        label.upload_from_filename(IRIS["LABEL_FILEPATH"])
        source = {"GCS_BUCKET": bucket.name, "GCS_MODEL_BLOB": name, "STORAGE_EMULATOR_HOST": url}
        run_loader({**environment, **source})
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        digest = server.client.get("/metadata").headers["etag"].strip('"')
        for look, options in LOOKS.items():
            with visiting(browser, server.url, **options) as page:
                assert page.get_by_role("heading", level=1).text_content() == name
                facts = page.locator("#facts code").all_text_contents()
                assert facts == [f"gs://models/{name}", str(model.generation), digest]
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (max(map(int, re.findall(r"\d+", background))) < 64) is (look == "dark")
                assert Axe().run(page).response["violations"] == []
                send(page)
                assert_shows(page, server, [5.1, 3.5, 1.4, 0.2])
                page.evaluate("scrollTo(0, 0)")
                page.screenshot(path=SCREENSHOTS / f"{look}.png", full_page=look == "narrow")
                assert_fits(page)
