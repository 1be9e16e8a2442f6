"""Runs the loader in forks of a process that has imported its modules, as imports take most of a small load's time.

Reads requests from stdin, one JSON object per line, and writes the exit code and the output of each to stdout. Modules
that read settings when they are imported, like google.auth.compute_engine, must not be imported here.
"""

import gc
import json
import os
import runpy
import sys
import tempfile
from typing import Any

import loader.job
import loader.sources.gcs
import loader.sources.https
import loader.sources.local
import loader.sources.oci
import loader.sources.s3  # noqa: F401


def receive() -> Any:
    """Return the next request, in a fork for it, or None after the last request."""
    with os.fdopen(os.dup(0)) as requests, os.fdopen(os.dup(1), "w") as answers:
        for request in requests:
            with tempfile.TemporaryFile("r+") as output, tempfile.TemporaryFile("r+") as error:
                child = os.fork()
                if child == 0:
                    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                    os.dup2(output.fileno(), 1)
                    os.dup2(error.fileno(), 2)
                    return json.loads(request)
                _, status = os.waitpid(child, 0)
                output.seek(0)
                error.seek(0)
                result = os.waitstatus_to_exitcode(status), output.read(), error.read()
            print(json.dumps(result), file=answers, flush=True)
    return None


if __name__ == "__main__":
    gc.freeze()  # so that a fork does not copy all objects when it collects garbage
    if request := receive():
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
