"""Server faults, one at a time, over a real socket."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.integration.loader.conftest import LABELS, MODEL, Pair, make_labels, make_model, with_external_data
from tests.integration.loader.fault_server import Exchange, Fault, FaultServer, StoredObject
from tests.integration.loader.running import UNREACHABLE, Target, assert_failed


def always(fault: Fault) -> Iterator[Fault]:
    return itertools.repeat(fault)


def times(count: int, fault: Fault) -> Iterator[Fault]:
    return itertools.repeat(fault, count)


def status(code: int, **headers: str) -> Fault:
    return lambda exchange: exchange.status(code, b"", **headers)


def cut(share: float) -> Fault:
    """Close the connection after a share of the bytes."""

    def fault(exchange: Exchange) -> None:
        start, end = exchange.span()
        exchange.media_headers()
        exchange.handler.wfile.write(exchange.stored.content[start : start + int((end - start) * share)])
        exchange.handler.close_connection = True

    return fault


def reset(exchange: Exchange) -> None:
    start, _ = exchange.span()
    exchange.media_headers()
    exchange.handler.wfile.write(exchange.stored.content[start : start + 100])
    exchange.reset()


def say_nothing(exchange: Exchange) -> None:
    exchange.wait_for_the_end()


def stall(exchange: Exchange) -> None:
    start, _ = exchange.span()
    exchange.media_headers()
    exchange.handler.wfile.write(exchange.stored.content[start : start + 500])
    exchange.wait_for_the_end()


def trickle(exchange: Exchange) -> None:
    start, end = exchange.span()
    exchange.media_headers()
    for byte in exchange.stored.content[start:end]:
        exchange.handler.wfile.write(bytes([byte]))
        if exchange.wait_for_the_end(1):
            return


def trickle_headers(exchange: Exchange) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Header: more\r\n" * 90:
        exchange.handler.wfile.write(bytes([byte]))
        if exchange.wait_for_the_end(0.2):
            return


def wrong_bytes(exchange: Exchange) -> None:
    start, end = exchange.span()
    exchange.media_headers()
    exchange.handler.wfile.write(bytes(byte ^ 1 for byte in exchange.stored.content[start:end]))


def wrong_length(exchange: Exchange) -> None:
    start, end = exchange.span()
    exchange.media_headers(length=end - start - 7)
    exchange.handler.wfile.write(exchange.stored.content[start : end - 7])


def whole_object(exchange: Exchange) -> None:
    """Ignore the requested range, as a cache can."""
    exchange.status(200, exchange.stored.content)


@pytest.mark.parametrize(
    ("kind", "code", "exit_code"),
    [
        ("metadata", 400, 1),
        ("metadata", 401, 4),
        ("metadata", 403, 4),
        ("metadata", 404, 3),
        ("metadata", 412, 1),
        ("media", 302, 1),
        ("media", 400, 1),
        ("media", 401, 4),
        ("media", 403, 4),
        ("media", 416, 5),
    ],
)
def test_a_permanent_error_is_not_retried(
    target: Target, server: FaultServer, kind: str, code: int, exit_code: int
) -> None:
    server.on(kind, always(status(code)))

    run = target.load()

    assert_failed(run, exit_code, MODEL, str(code))
    target.assert_empty()
    assert run.named("retry") == []
    assert target.temporaries() == []


@pytest.mark.parametrize("kind", ["metadata", "media"])
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(target: Target, server: FaultServer, kind: str, code: int) -> None:
    server.on(kind, always(status(code, Location=f"{server.url}/download/storage/v1/b/other/o/elsewhere")))

    run = target.load()

    assert_failed(run, 1, MODEL, str(code))
    assert [request for request in server.requests if "elsewhere" in request] == []
    target.assert_empty()


@pytest.mark.parametrize("kind", ["metadata", "media"])
@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_transient_failure_is_retried(target: Target, server: FaultServer, pair: Pair, kind: str, code: int) -> None:
    server.on(kind, times(2, status(code)))

    run = target.load()

    assert run.exit_code == 0
    assert target.assert_holds(*pair).attempts == 3
    assert all(str(code) in event["reason"] for event in run.named("retry"))
    assert target.temporaries() == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_persistent_failure_ends_the_load(target: Target, server: FaultServer, code: int) -> None:
    server.on("media", always(status(code)))
    run = target.load(load_timeout_seconds=3)
    assert_failed(run, UNREACHABLE, MODEL, str(code), "LOAD_TIMEOUT_SECONDS")
    target.assert_empty()


@pytest.mark.parametrize(
    "after", [lambda: "1", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)]
)
def test_retry_after_is_honoured(target: Target, server: FaultServer, pair: Pair, after: Callable[[], str]) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.status(429, Retry_After=after())

    server.on("media", times(1, refuse))
    run = target.load()
    [retry] = run.named("retry")
    assert 0.5 < retry["seconds"] <= 2
    target.assert_holds(*pair)


def test_a_retry_after_beyond_the_deadline_is_not_awaited(target: Target, server: FaultServer) -> None:
    server.on("media", always(status(503, Retry_After="3600")))
    run = target.load()
    assert_failed(run, 8, "503", "3600 s")
    assert run.named("retry") == []


@pytest.mark.parametrize("fault", [reset, *map(cut, (0, 0.25, 0.5, 0.75))])
def test_a_broken_stream_is_resumed(target: Target, server: FaultServer, pair: Pair, fault: Fault) -> None:
    server.on("media", times(1, fault))

    run = target.load()

    assert run.exit_code == 0
    assert target.assert_holds(*pair).attempts == 2
    first, second = (line for line in server.requests if line.startswith(f"media {MODEL}"))
    assert first.endswith(f"bytes=0-{len(pair[0]) - 1}")
    if fault is not reset:
        share = int(second.partition("bytes=")[2].partition("-")[0]) / len(pair[0])
        assert share == pytest.approx(int(share * 4 + 0.1) / 4, abs=0.001)


@pytest.mark.parametrize("kind", ["metadata", "media"])
def test_a_silent_server_is_abandoned_at_the_deadline(target: Target, server: FaultServer, kind: str) -> None:
    server.on(kind, always(say_nothing))
    run = target.load(load_timeout_seconds=2)
    assert_failed(run, 6, "LOAD_TIMEOUT_SECONDS=2", MODEL if kind == "media" else "looking up")
    target.assert_empty()


@pytest.mark.parametrize(
    ("kind", "fault"), [("media", trickle), ("media", trickle_headers), ("metadata", trickle_headers)]
)
def test_a_trickle_is_cut_off_at_the_deadline(target: Target, server: FaultServer, kind: str, fault: Fault) -> None:
    server.on(kind, always(fault))
    run = target.load(load_timeout_seconds=1.5, stall_timeout_seconds=1.4)
    assert_failed(run, 6, "LOAD_TIMEOUT_SECONDS=1.5")
    target.assert_empty()


@pytest.mark.parametrize(("kind", "fault"), [("metadata", say_nothing), ("media", say_nothing), ("media", stall)])
def test_a_stall_is_dropped_and_retried(
    target: Target, server: FaultServer, pair: Pair, kind: str, fault: Fault
) -> None:
    server.on(kind, times(1, fault))
    run = target.load(stall_timeout_seconds=0.3)
    [retry] = run.named("retry")
    assert "no data received for 0.3 s" in retry["reason"]
    target.assert_holds(*pair)


def test_wrong_bytes_once_are_fetched_again(target: Target, server: FaultServer, pair: Pair) -> None:
    server.on("media", times(1, wrong_bytes))
    run = target.load()
    [retry] = run.named("retry")
    assert "crc32c" in retry["reason"]
    target.assert_holds(*pair)


@pytest.mark.parametrize(("fault", "word"), [(wrong_bytes, "crc32c"), (wrong_length, "expected 2")])
def test_permanently_wrong_answers_are_refused(target: Target, server: FaultServer, fault: Fault, word: str) -> None:
    server.on("media", always(fault))
    assert_failed(target.load(), 5, MODEL, word, "3 times in a row")
    target.assert_empty()
    assert target.temporaries() == []


def test_metadata_that_does_not_match_the_bytes_is_refused(target: Target, server: FaultServer) -> None:
    server.objects[MODEL].metadata["crc32c"] = "AAAAAA=="
    assert_failed(target.load(), 5, MODEL, "AAAAAA==")
    target.assert_empty()


def test_the_metadata_replaces_a_missing_hash_header(target: Target, server: FaultServer, pair: Pair) -> None:
    server.objects[MODEL].hash_header = False
    server.on("media", times(1, wrong_bytes))
    run = target.load()
    assert len(run.named("retry")) == 1
    target.assert_holds(*pair)


def test_a_server_without_ranges_works(target: Target, server: FaultServer, pair: Pair) -> None:
    server.on("media", always(whole_object))
    assert target.load().exit_code == 0
    target.assert_holds(*pair)


@pytest.mark.parametrize("length", ["with a length", "without"])
def test_truncated_metadata_is_requested_again(target: Target, server: FaultServer, pair: Pair, length: str) -> None:
    def cut_short(exchange: Exchange) -> None:
        answer = json.dumps(exchange.stored.resource()).encode()
        exchange.handler.send_response(200)
        if length != "without":
            exchange.handler.send_header("Content-Length", str(len(answer)))
        exchange.handler.end_headers()
        exchange.handler.wfile.write(answer[:-10])
        exchange.handler.close_connection = True

    server.on("metadata", times(1, cut_short))
    run = target.load()
    [retry] = run.named("retry")
    assert "cut" in retry["reason"]
    target.assert_holds(*pair)


@pytest.mark.parametrize("kind", ["metadata", "token"])
def test_an_endless_response_is_not_read_to_the_end(
    target: Target, server: FaultServer, tmp_path: Path, kind: str
) -> None:
    def flood(exchange: Exchange) -> None:
        exchange.handler.send_response(200)
        exchange.handler.end_headers()
        with suppress(OSError):
            while not exchange.wait_for_the_end(0):
                exchange.handler.wfile.write(b" " * (1 << 20))

    server.on(kind, always(flood))
    settings: dict[str, object] = {"load_timeout_seconds": 5}
    if kind == "token":
        host = server.url.removeprefix("http://")
        settings |= {"storage_emulator_host": "", "gcs_endpoint": server.url, "home": tmp_path}
        settings |= {"gce_metadata_host": host, "gce_metadata_ip": host}
    run = target.load(**settings)
    assert run.exit_code not in (0, 6), run
    assert kind == "token" or len(run.named("retry")) > 1, run
    target.assert_empty()


def test_metadata_that_is_a_web_page_is_refused(target: Target, server: FaultServer) -> None:
    server.on("metadata", always(lambda exchange: exchange.status(200, b"<html>Sign in</html>")))
    assert_failed(target.load(), 8, MODEL, "not object metadata")


def test_compressed_storage_is_refused(target: Target, server: FaultServer) -> None:
    server.objects[MODEL].metadata["contentEncoding"] = "gzip"
    assert_failed(target.load(), 5, MODEL, "gzip")


def test_a_refused_connection_is_retried_until_the_deadline(target: Target, server: FaultServer) -> None:
    server.shutdown()
    server.server_close()
    run = target.load(load_timeout_seconds=2)
    assert_failed(run, UNREACHABLE, "Connection refused", "LOAD_TIMEOUT_SECONDS=2")
    assert run.named("retry")


def test_a_name_that_does_not_resolve_is_unreachable(target: Target) -> None:
    run = target.load(storage_emulator_host="bucket.invalid", load_timeout_seconds=2)
    assert_failed(run, UNREACHABLE)


@pytest.mark.parametrize("code", [404, 412, None])
def test_an_object_replaced_during_the_load_restarts_it(
    target: Target, server: FaultServer, pair: Pair, code: int | None
) -> None:
    replacement = make_model(3000)

    def replace(exchange: Exchange) -> None:
        server.objects[MODEL] = StoredObject(replacement, generation=2)
        if code is None:
            exchange.media()  # the new generation's bytes, as from a server that ignores the requested generation
        else:
            exchange.status(code)

    server.on("media", times(1, replace))

    run = target.load()

    assert run.exit_code == 0
    receipt = target.assert_holds(replacement, pair[1])
    assert (receipt.model.version, receipt.attempts) == ("2", 2)
    assert "overwritten" in run.named("retry")[0]["reason"]
    assert target.temporaries() == []


def test_replaced_labels_do_not_reload_the_model(target: Target, server: FaultServer, pair: Pair) -> None:
    replacement = make_labels("x", "y")

    def replace(exchange: Exchange) -> None:
        server.objects[LABELS] = StoredObject(replacement, generation=2)
        exchange.status(404)

    server.on("media", iter([Exchange.media, replace]))

    assert target.load().exit_code == 0
    target.assert_holds(pair[0], replacement)
    assert len([line for line in server.requests if line.startswith(f"media {MODEL}")]) == 1


def test_weights_from_a_later_upload_are_not_mixed_with_the_model(target: Target, server: FaultServer) -> None:
    weights = "iris/1/weights.bin"
    server.objects[MODEL] = StoredObject(with_external_data("weights.bin"))
    server.objects[weights] = StoredObject(b"1" * 4000)
    replacement = with_external_data("weights.bin") + b"\x72\x05\x0a\x03new"  # a metadata property

    def replace_all(exchange: Exchange) -> None:
        exchange.media()
        server.objects[MODEL] = StoredObject(replacement, generation=2)
        server.objects[weights] = StoredObject(b"2" * 4000, generation=2)

    server.on("media", iter([Exchange.media, replace_all]))  # after the model and its labels are downloaded

    run = target.load()

    assert run.exit_code == 0
    receipt = target.receipt()
    assert receipt is not None
    assert [file.version for file in (receipt.model, *receipt.external_data)] == ["2", "2"]
    assert target.model.read_bytes() == replacement
    assert f"{MODEL} was overwritten" in run.named("retry")[0]["reason"]


def test_an_object_that_is_replaced_repeatedly_ends_the_load(target: Target, server: FaultServer) -> None:
    def replace(exchange: Exchange) -> None:
        exchange.stored.generation += 1
        exchange.status(404)

    server.on("media", always(replace))
    assert_failed(target.load(), 5, MODEL, "overwritten")
    target.assert_empty()


def test_a_pinned_generation_that_disappears_is_not_found(target: Target, server: FaultServer) -> None:
    def replace(exchange: Exchange) -> None:
        exchange.stored.generation = 2
        exchange.status(404)

    server.on("media", times(1, replace))
    assert_failed(target.load(gcs_model_generation=1), 3, f"{MODEL}#1")
    target.assert_empty()


def test_a_failed_load_keeps_the_old_pair(target: Target, server: FaultServer, pair: Pair) -> None:
    target.load()
    server.objects[MODEL] = StoredObject(make_model(3000), generation=2)
    server.on("media", always(wrong_bytes))

    assert_failed(target.load(), 5, MODEL)

    target.assert_holds(*pair)
    assert target.temporaries() == []


def test_the_reason_for_a_failure_is_in_the_termination_log(target: Target, server: FaultServer) -> None:
    server.on("metadata", always(status(403)))
    target.termination_log.touch()
    run = target.load()
    assert target.termination_log.read_text() == f"loader: {run.reason}\n"
