"""Limits on the requests in flight and on the bytes of their large bodies."""


class Permit:
    """The slot that a request in flight occupies, and the bytes that it holds."""

    __slots__ = ("_admission", "_held", "_is_counted", "_is_released")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._held = 0
        self._is_counted = True
        self._is_released = False

    def pause(self) -> None:
        """Free the slot while the rest of the body is read, so that a slow client does not occupy it."""
        if self._is_counted:
            self._is_counted = False
            self._admission.in_flight -= 1

    def resume(self) -> bool:
        """Occupy a slot again, and return whether one was free."""
        if not self._is_counted and not self._is_released and not self._admission.is_full:
            self._is_counted = True
            self._admission.in_flight += 1
        return self._is_counted

    def hold(self, size: int) -> bool:
        """Add `size` bytes to those held, and return whether all permits together are within the limit."""
        if self._is_released:
            return False
        self._held += size
        self._admission.held_bytes += size
        return self._admission.held_bytes <= self._admission.max_held_bytes

    def release(self) -> None:
        """Free the slot and the bytes; a second call does nothing."""
        self.pause()
        self._is_released = True
        self._admission.held_bytes -= self._held
        self._held = 0


class Admission:
    """Counters of the requests in flight and of the bytes that they hold; only permits change them.

    Args:
        max_in_flight: the maximum number of requests in flight.
        max_held_bytes: the maximum number of bytes that they hold together.

    Attributes:
        in_flight: the number of permits that are neither paused nor released.
        held_bytes: the bytes that all permits hold together.
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
        """Whether no further request may begin."""
        return self.in_flight >= self.max_in_flight

    def try_acquire(self) -> Permit | None:
        """Return a permit for one more request, or None if the maximum is in flight."""
        if self.is_full:
            return None
        self.in_flight += 1
        return Permit(self)
