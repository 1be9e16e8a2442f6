"""Whether the tests run in their thorough and slow form."""

import os

NIGHTLY = bool(os.environ.get("NIGHTLY"))
ROUNDS = 20 if NIGHTLY else 1  # for tests whose outcome varies
