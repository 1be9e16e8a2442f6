"""The outermost application in front of applications that misbehave."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.api import Predictions
from model_server.http.asgi import OutermostApp
from model_server.http.methods import RowsMethod
from model_server.http.server import PredictionServer, default_max_in_flight
from model_server.model.model import Model
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.observability.log import Log
from model_server.settings import Settings
from tests.support.classifiers import classifier, save
from tests.support.processes import IRIS

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path, _ = save(classifier(), tmp_path_factory.mktemp("model"), LABELS)
    file = ModelFile.read(path)
    return Model(Predictor(file, LABELS), LABELS, file)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PredictionServer]:
    settings = Settings.read({**IRIS, "MAX_BODY_BYTES": "1000"})
    with (tmp_path / "log").open("wb") as file:
        yield PredictionServer("name", "version", settings, Log(file.fileno()), shows_metrics=True)


@pytest.fixture
def front(model: Model, server: PredictionServer) -> Callable[[ASGIApp], OutermostApp]:
    """Return a function that puts the outermost application in front of another one."""

    def wrap(app: ASGIApp) -> OutermostApp:
        front = server.wrap(app, (), via_app=False)
        assert isinstance(front, OutermostApp)
        method = RowsMethod("predict", "/predict", "data", model.predict, False, None, Predictions, "Predict.")
        server.serve(model, [method], {"paths": {}}, ["/known"])
        return front

    return wrap


def get(app: ASGIApp, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send())


def test_failure_before_the_answer(front: Callable[[ASGIApp], OutermostApp], caplog: pytest.LogCaptureFixture) -> None:
    async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("secret")

    response = get(front(failing), "/known")
    assert (response.status_code, list(response.json())) == (500, ["detail"])
    assert "secret" not in response.text
    assert "secret" in caplog.text


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500, 503])
def test_all_errors_have_the_same_format(front: Callable[[ASGIApp], OutermostApp], status: int) -> None:
    async def refuse(_: Request) -> Response:
        return PlainTextResponse("refused", status, {"retry-after": "7", "content-language": "en"})

    response = get(front(Starlette(routes=[Route("/known", refuse)])), "/known")
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "7"
    assert "content-language" not in response.headers


def test_a_service_that_is_not_ready_has_not_failed(front: Callable[[ASGIApp], OutermostApp]) -> None:
    async def refuse(_: Request) -> Response:
        return PlainTextResponse("", 503)

    response = get(front(Starlette(routes=[Route("/readyz", refuse)])), "/readyz")
    assert (response.status_code, response.json()) == (503, {"detail": "The service reports that it is not ready."})


def test_other_answers_pass_unchanged(front: Callable[[ASGIApp], OutermostApp]) -> None:
    async def answer(_: Request) -> Response:
        return PlainTextResponse("fine", headers={"etag": '"1"'})

    response = get(front(Starlette(routes=[Route("/known", answer)])), "/known")
    assert (response.status_code, response.text, response.headers["etag"]) == (200, "fine", '"1"')


@pytest.mark.parametrize(
    ("if_none_match", "status"),
    [('"1"', 304), ('W/"1"', 304), ('"0", "1"', 304), ("*", 304), ('"2"', 200), ("1", 200), (None, 200)],
)
def test_a_known_entity_tag_gets_304(
    front: Callable[[ASGIApp], OutermostApp], if_none_match: str | None, status: int
) -> None:
    async def answer(_: Request) -> Response:
        return PlainTextResponse("fine", headers={"etag": '"1"'})

    headers = {"if-none-match": if_none_match} if if_none_match else {}
    response = get(front(Starlette(routes=[Route("/known", answer)])), "/known", headers)
    assert (response.status_code, response.headers["etag"]) == (status, '"1"')
    assert response.text == ("fine" if status == 200 else "")
    assert ("content-length" in response.headers) == (status == 200)


def post(app: ASGIApp, *headers: tuple[str, str], body: bytes = b'{"data": [[1, 2, 3, 4]]}') -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/predict", content=body, headers=list(headers))

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ([("X-Request-ID", "order-7/b")], "order-7/b"),
        ([("traceparent", f"00-{'a1' * 16}-{'b2' * 8}-01")], "a1" * 16),
        ([("traceparent", f"00-{'a1' * 16}-{'b2' * 8}-01"), ("X-Request-ID", "mine")], "mine"),
        ([("traceparent", f"00-{'a1' * 16}-{'b2' * 8}-01"), ("X-Request-ID", "two words")], "a1" * 16),
    ],
)
def test_the_request_id_is_the_clients(
    front: Callable[[ASGIApp], OutermostApp], headers: list[tuple[str, str]], request_id: str
) -> None:
    app = front(Starlette())
    assert post(app, *headers).headers["x-request-id"] == request_id
    assert post(app, *headers, body=b"").headers["x-request-id"] == request_id
    assert get(app, "/none", dict(headers)).headers["x-request-id"] == request_id


@pytest.mark.parametrize(
    "header",
    [("X-Request-ID", "x" * 129), ("X-Request-ID", "{}"), ("traceparent", f"00-{'0' * 32}-{'b2' * 8}-01")],
)
def test_an_invalid_request_id_is_replaced(front: Callable[[ASGIApp], OutermostApp], header: tuple[str, str]) -> None:
    app = front(Starlette())
    request_ids = [post(app, header).headers["x-request-id"] for _ in range(2)]
    assert header[1] not in request_ids
    assert len(set(request_ids)) == 2


def test_a_failure_is_logged_with_the_request_id(
    front: Callable[[ASGIApp], OutermostApp], caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError

    response = get(front(failing), "/known", {"X-Request-ID": "order-7"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "order-7")
    [record] = caplog.records
    assert record.getMessage() == "request_failed"
    assert record.__dict__["fields"] == {"request_id": "order-7", "method": "GET", "route": "/known"}


@pytest.mark.parametrize("values", [("text/plain", "application/json"), ("application/json", "text/plain")])
def test_each_value_of_a_repeated_header_is_checked(
    front: Callable[[ASGIApp], OutermostApp], values: tuple[str, str]
) -> None:
    response = post(front(Starlette()), *(("Content-Type", value) for value in values))
    assert (response.status_code, "text/plain" in response.json()["detail"]) == (415, True)


def test_a_request_cancelled_at_shutdown_gets_503(front: Callable[[ASGIApp], OutermostApp]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def cancel_request() -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        task = asyncio.create_task(front(Starlette())(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cancel_request())
    assert [message.get("status", message.get("body")) for message in sent] == [
        503,
        b'{"detail":"The server is stopping; send the request again."}',
    ]


def test_a_client_that_disconnects_gets_no_answer(
    front: Callable[[ASGIApp], OutermostApp], server: PredictionServer
) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"data"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(front(Starlette())(scope, receive, send))
    assert sent == []
    assert b'endpoint="/predict",http_response_code="499"' in server.observer.metrics.exposition()


def test_unknown_paths_are_counted_as_other(front: Callable[[ASGIApp], OutermostApp], server: PredictionServer) -> None:
    app = front(Starlette())
    for path in ("/a", "/b", "/known"):
        get(app, path)
    exposed = server.observer.metrics.exposition().decode()
    labels = 'endpoint="{}",http_response_code="404",service_name="name",service_version="version"'
    assert f"bentoml_service_request_total{{{labels.format('other')}}} 2.0" in exposed
    assert f"bentoml_service_request_total{{{labels.format('/known')}}} 1.0" in exposed
    assert 'model_server_refused_total{reason="not_found"} 3.0' in exposed


@pytest.mark.parametrize(
    ("seconds", "threads", "limit"),
    [(0.000006, 1, 128), (0.0011, 1, 33), (0.004, 1, 10), (0.004, 4, 39), (0.05, 2, 8), (30, 2, 8), (30, 16, 32)],
)
def test_the_default_limit_depends_on_the_time_of_an_inference(
    model: Model, monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int, limit: int
) -> None:
    monkeypatch.setattr(model, "sample_seconds", seconds)
    monkeypatch.setattr(model, "_one_row_seconds", seconds)
    assert default_max_in_flight(model, threads) == limit


def test_other_scopes_are_passed_on(front: Callable[[ASGIApp], OutermostApp]) -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        return {}

    async def ignore(_: Message) -> None:
        return

    asyncio.run(front(app)({"type": "lifespan"}, nothing, ignore))
    assert seen == ["lifespan"]
