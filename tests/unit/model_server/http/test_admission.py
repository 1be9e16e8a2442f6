"""The number of requests in flight is right after any sequence of calls."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from model_server.http.admission import Admission, Permit

LIMIT = 3
MAX_BYTES = 100


class PermitMachine(RuleBasedStateMachine):
    """Permits under random calls, compared with a simple reference model."""

    permits: Bundle[Permit] = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(LIMIT, MAX_BYTES)
        self.counted: set[Permit] = set()
        self.held: dict[Permit, int] = {}
        self.released: set[Permit] = set()

    @rule(target=permits)
    def acquire(self) -> Permit:
        permit = self.admission.try_acquire()
        if len(self.counted) >= LIMIT:
            assert permit is None
            permit = Permit(Admission(1, 1))  # from another admission, as the rule must return a permit
            permit.release()
            self.released.add(permit)
        else:
            assert permit is not None
            self.counted.add(permit)
        return permit

    @rule(permit=permits)
    def pause(self, permit: Permit) -> None:
        permit.pause()
        self.counted.discard(permit)

    @rule(permit=permits)
    def resume(self, permit: Permit) -> None:
        is_allowed = permit in self.counted or (permit not in self.released and len(self.counted) < LIMIT)
        assert permit.resume() is is_allowed
        if is_allowed:
            self.counted.add(permit)

    @rule(permit=permits, size=st.integers(0, 60))
    def hold(self, permit: Permit, size: int) -> None:
        if permit not in self.released:
            self.held[permit] = self.held.get(permit, 0) + size
        assert permit.hold(size) is (permit not in self.released and sum(self.held.values()) <= MAX_BYTES)

    @rule(permit=permits)
    def release(self, permit: Permit) -> None:
        permit.release()
        self.counted.discard(permit)
        self.held.pop(permit, None)
        self.released.add(permit)

    @rule(permit=consumes(permits))
    def release_twice(self, permit: Permit) -> None:
        self.release(permit)
        self.release(permit)

    @invariant()
    def counts_match_the_permits(self) -> None:
        assert self.admission.in_flight == len(self.counted)
        assert self.admission.held_bytes == sum(self.held.values())
        assert self.admission.is_full is (len(self.counted) >= LIMIT)

    def teardown(self) -> None:
        for permit in {*self.counted, *self.held}:
            permit.release()
        assert (self.admission.in_flight, self.admission.held_bytes) == (0, 0)


TestPermits = PermitMachine.TestCase
# An example has up to 50 steps.
TestPermits.settings = settings(max_examples=settings().max_examples // 4)
