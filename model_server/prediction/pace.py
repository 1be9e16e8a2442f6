"""Whether calls of a method are short enough for the event loop."""

from model_server.prediction.runner import INLINE_SECONDS

_SLOW_SECONDS = 5 * INLINE_SECONDS
_SHORT_CALLS = 100


class Pace:
    """The recent calls of a method that should be short, judging by the model.

    The method may do other work that takes long. One long call is enough to move to a thread; if the call was long by
    chance, the next short ones, in a thread, move the method back.

    Attributes:
        is_slow: whether a call has taken long, and fewer than 100 consecutive calls since then were short.
    """

    def __init__(self) -> None:
        self.is_slow = False
        self._short_calls = 0

    def observe(self, seconds: float) -> None:
        """Add a call that took so many seconds."""
        if seconds > _SLOW_SECONDS:
            self.is_slow = True
            self._short_calls = 0
        elif self.is_slow:
            self._short_calls += 1
            self.is_slow = self._short_calls < _SHORT_CALLS
