"""Killed loads and their resumption."""

import random
import subprocess
import threading
import time

from loader.transfer.journal import PIECE_SIZE
from tests.integration.loader.conftest import LABELS, MODEL, Pair, make_labels, make_model
from tests.integration.loader.fault_server import Exchange, FaultServer, StoredObject
from tests.integration.loader.running import Target
from tests.support.nightly import NIGHTLY

_KILLS = 20 if NIGHTLY else 5
_PIECES_PER_REQUEST = 8


def kill_at_second_request(target: Target, server: FaultServer) -> None:
    """Kill a load of a large model when the data of one request is on disk."""
    asked = threading.Event()

    def wait(exchange: Exchange) -> None:
        asked.set()
        exchange.wait_for_the_end()

    server.on("media", iter([Exchange.media, wait]))
    with target.start(download_workers=1) as process:
        assert asked.wait(20)
        process.kill()
        process.communicate()
    target.assert_empty()
    server.requests.clear()


def test_a_killed_load_is_resumed(target: Target, server: FaultServer, large_model: bytes, pair: Pair) -> None:
    server.objects[MODEL] = StoredObject(large_model)
    kill_at_second_request(target, server)

    run = target.load(download_workers=1)

    assert [event["bytes"] for event in run.named("resume")] == [_PIECES_PER_REQUEST * PIECE_SIZE]
    assert f"bytes={_PIECES_PER_REQUEST * PIECE_SIZE}-" in next(line for line in server.requests if "media" in line)
    target.assert_holds(large_model, pair[1])
    assert target.temporaries() == []


def test_a_damaged_piece_is_fetched_again(target: Target, server: FaultServer, large_model: bytes, pair: Pair) -> None:
    server.objects[MODEL] = StoredObject(large_model)
    kill_at_second_request(target, server)
    [partial] = target.directory.glob(".model-partial-*/files/model.onnx")
    with partial.open("r+b") as file:
        file.seek(3 * PIECE_SIZE + 5)
        file.write(b"damage!!")

    run = target.load(download_workers=1)

    assert [event["bytes"] for event in run.named("resume")] == [(_PIECES_PER_REQUEST - 1) * PIECE_SIZE]
    target.assert_holds(large_model, pair[1])


def test_another_generation_is_not_mixed_with_the_partial_file(
    target: Target, server: FaultServer, large_model: bytes, pair: Pair
) -> None:
    server.objects[MODEL] = StoredObject(large_model)
    kill_at_second_request(target, server)
    server.objects[MODEL] = StoredObject(pair[0], generation=2)

    run = target.load()

    assert run.named("resume") == []
    target.assert_holds(*pair)
    assert target.temporaries() == []


def test_a_load_killed_at_any_time_leaves_a_complete_pair(target: Target, server: FaultServer) -> None:
    """Two versions alternate; each load is killed at a random time, then run again."""
    pairs = [(make_model(3 * PIECE_SIZE + number), make_labels(f"of {number}")) for number in range(2)]
    chance = random.Random(20)  # noqa: S311 (a fixed seed)

    def serve(number: int) -> Pair:
        model, labels = pairs[number % 2]
        server.objects[MODEL] = StoredObject(model, generation=number + 1)
        server.objects[LABELS] = StoredObject(labels, generation=number + 1)
        return model, labels

    old = serve(0)
    start = time.monotonic()
    target.load()
    seconds = time.monotonic() - start
    for number in range(1, _KILLS + 1):
        new = serve(number)
        with target.start() as process:
            try:
                process.wait(chance.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
        published = next(pair for pair in (old, new) if pair[0] == target.model.read_bytes())
        target.assert_holds(*published)
        assert target.load().exit_code == 0
        target.assert_holds(*new)
        assert target.temporaries() == []
        old = new
