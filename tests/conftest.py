"""The number of examples that Hypothesis generates."""

from hypothesis import HealthCheck, settings

from tests.support.nightly import NIGHTLY

settings.register_profile(
    "tests",
    max_examples=20_000 if NIGHTLY else 300,
    deadline=None,
    derandomize=not NIGHTLY,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("tests")
