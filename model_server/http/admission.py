"""How much may be in flight at once: requests, and bytes of large bodies."""


class Permit:
    """One request's place among those in flight, and the bytes that it holds."""

    __slots__ = ("_admission", "_held", "_is_counted", "_is_released")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._held = 0
        self._is_counted = True
        self._is_released = False

    def pause(self) -> None:
        """Give up the place while the rest of the body is read: a slow client takes none from others."""
        if self._is_counted:
            self._is_counted = False
            self._admission.in_flight -= 1

    def resume(self) -> bool:
        """Take a place again, and return whether there was one."""
        if not self._is_counted and not self._is_released and not self._admission.is_full:
            self._is_counted = True
            self._admission.in_flight += 1
        return self._is_counted

    def hold(self, size: int) -> bool:
        """Count so many bytes more as held, and return whether all bytes held are within the limit."""
        if self._is_released:
            return False
        self._held += size
        self._admission.held_bytes += size
        return self._admission.held_bytes <= self._admission.max_held_bytes

    def release(self) -> None:
        """Give up the place and the bytes; a second call does nothing."""
        self.pause()
        self._is_released = True
        self._admission.held_bytes -= self._held
        self._held = 0


class Admission:
    """Counts the requests in flight and the bytes that they hold; only permits change the counts.

    Args:
        max_in_flight: how many requests may be in flight.
        max_held_bytes: how many bytes they may hold together.

    Attributes:
        in_flight: requests that have a permit which is not paused.
        held_bytes: what all permits hold together.
        max_in_flight: as above.
        max_held_bytes: as above.
    """

    def __init__(self, max_in_flight: int, max_held_bytes: int) -> None:
        self.max_in_flight = max_in_flight
        self.max_held_bytes = max_held_bytes
        self.in_flight = 0
        self.held_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no other request may begin."""
        return self.in_flight >= self.max_in_flight

    def try_acquire(self) -> Permit | None:
        """Return a permit for one more request, or None if there are as many in flight as there may be."""
        if self.is_full:
            return None
        self.in_flight += 1
        return Permit(self)
