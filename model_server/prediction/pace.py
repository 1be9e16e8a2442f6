"""Tracks whether the calls of a method are short enough for the event loop."""

from model_server.prediction.runner import INLINE_SECONDS

_SLOW_SECONDS = 5 * INLINE_SECONDS
_SHORT_CALLS = 100


class Pace:
    """Tracker of the durations of a method's calls, which should be short according to the model's measured latency.

    The method may also do other work. A single long call moves the method to a thread; 100 consecutive short calls in
    the thread move it back.

    Attributes:
        is_slow: whether a call was long and fewer than 100 consecutive calls since then were short.
    """

    def __init__(self) -> None:
        self.is_slow = False
        self._short_calls = 0

    def observe(self, seconds: float) -> None:
        """Record the duration of a call in seconds."""
        if seconds > _SLOW_SECONDS:
            self.is_slow = True
            self._short_calls = 0
        elif self.is_slow:
            self._short_calls += 1
            self.is_slow = self._short_calls < _SHORT_CALLS
