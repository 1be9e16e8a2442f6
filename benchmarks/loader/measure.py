"""Run a command and print its duration, CPU time and peak memory as JSON.

This is a separate, small program because the peak that Linux reports for a process is at least that of its parent.
"""

import json
import os
import sys
import time


def main(command: list[str]) -> None:
    """Run the command without its output, and exit with its exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    cpu = usage.ru_utime + usage.ru_stime
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024}))
    sys.exit(os.waitstatus_to_exitcode(status))


main(sys.argv[1:])
