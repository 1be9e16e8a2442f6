"""Runs modules in forks of one process that has imported others, as imports take most of the time of a start.

The arguments are the modules to import first. Requests are lines of JSON on stdin: to run a module, which is answered
with a process id, or to wait for a process, which is answered with its exit code. Modules that read settings when they
are imported, like google.auth.compute_engine, must not be imported first.
"""

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any


def receive() -> Any:
    """Return the next request to run a module, in a fork for it, or None after the last request."""
    with os.fdopen(os.dup(0)) as requests, os.fdopen(os.dup(1), "w") as answers:
        for line in requests:
            request = json.loads(line)
            if "wait" in request:
                _, status = os.waitpid(request["wait"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if answer == 0:
                    return request
            print(answer, file=answers, flush=True)
    return None


def run(request: Any) -> None:
    """Run the requested module as `python -m` does."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, request["output"]), (2, request["error"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv[1:] = request["arguments"]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # so that collecting garbage does not copy the memory of all these modules
    if received := receive():
        run(received)
