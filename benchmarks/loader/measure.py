"""Run a command and print its seconds, CPU seconds and peak memory as JSON.

A program of its own, and a small one: the peak that Linux reports of a process is never below that of its parent.
"""

import json
import os
import sys
import time


def main(command: list[str]) -> None:
    """Run the command with its output thrown away; exit as it does."""
    null = os.open(os.devnull, os.O_WRONLY)
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    cpu = usage.ru_utime + usage.ru_stime
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024}))
    sys.exit(os.waitstatus_to_exitcode(status))


main(sys.argv[1:])
