"""Whether `make nightly` runs the tests, which repeats those that depend on chance."""

import os

NIGHTLY = bool(os.environ.get("NIGHTLY"))
ROUNDS = 20 if NIGHTLY else 1
