"""Retries with exponential backoff."""

import random
import time

from loader.errors import IntegrityError, LoadError, UnreachableError
from loader.progress import Progress
from loader.watchdog import Deadline

_FIRST_SECONDS = 0.25
_LONGEST_SECONDS = 8.0
_INTEGRITY_TRIES = 3


class TransientError(Exception):
    """A failure that can be retried.

    Args:
        code: the code of the final error.
        reason: the message.
        wait: the delay in seconds that the server requests.
        kind: the class of the final error, raised when retries end.
    """

    def __init__(self, code: str, reason: str, *, wait: float = 0.0, kind: type[LoadError] = UnreachableError) -> None:
        super().__init__(reason)
        self.code = code
        self.wait = wait
        self.kind = kind


class Backoff:
    """The delays between the attempts of one action: exponential, with jitter, within the deadline."""

    def __init__(self, action: str, deadline: Deadline, progress: Progress) -> None:
        self._action = action
        self._deadline = deadline
        self._progress = progress
        self._failures = 0

    def reset(self) -> None:
        """Reset the number of failures after progress."""
        self._failures = 0

    def pause(self, error: TransientError) -> None:
        """Sleep until the next attempt.

        Raises:
            LoadError: the next attempt would be after the deadline, or wrong bytes were received too often.
        """
        self._failures += 1
        remaining = self._deadline.remaining()
        longest = max(_FIRST_SECONDS, min(_FIRST_SECONDS * 2 ** (self._failures - 1), _LONGEST_SECONDS, remaining / 2))
        seconds = max(error.wait, random.uniform(longest / 2, longest))  # noqa: S311 (jitter is not a secret)
        if error.kind is IntegrityError and self._failures >= _INTEGRITY_TRIES:
            raise error.kind(
                error.code,
                f"{self._action}: {error}, {self._failures} times in a row; "
                "check the object, and any proxy or cache in between",
            ) from error
        if seconds >= remaining:
            delay = f", and the server requests a delay of {error.wait:g} s" if error.wait else ""
            raise error.kind(
                error.code,
                f"{self._action}: {error}{delay} ({self._failures} attempts, {self._deadline.elapsed():.1f} s of "
                f"LOAD_TIMEOUT_SECONDS={self._deadline.seconds:g} used): check that the source works and is "
                "reachable",
            ) from error
        self._progress.retry(f"{self._action}: {error}", seconds)
        time.sleep(seconds)
