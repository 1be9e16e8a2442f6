"""Whether the tests are to be thorough, however long they take."""

import os

NIGHTLY = bool(os.environ.get("NIGHTLY"))
