"""Whether the tests are to be thorough, however long they take."""

import os

NIGHTLY = bool(os.environ.get("NIGHTLY"))
ROUNDS = 20 if NIGHTLY else 1  # of what is a matter of chance
