"""A slow method leaves the event loop and returns to it after enough short calls."""

from model_server.prediction.pace import Pace


def test_one_long_call_is_enough() -> None:
    pace = Pace()
    for seconds in (0.0001, 0.003, 0.009):
        pace.observe(seconds)
        assert not pace.is_slow
    pace.observe(0.011)
    assert pace.is_slow


def test_a_hundred_short_calls_move_it_back() -> None:
    pace = Pace()
    pace.observe(1)
    for _ in range(99):
        pace.observe(0.001)
    assert pace.is_slow
    pace.observe(0.02)
    for _ in range(99):
        pace.observe(0.001)
    assert pace.is_slow
    pace.observe(0.001)
    assert not pace.is_slow
