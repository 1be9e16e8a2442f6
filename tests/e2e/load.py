"""Request labels from a server until the file /tmp/stop exists; runs in a pod of the server's image, which has httpx.

Arguments: the URL, the number of threads, the rows per request, and how often a failed request is sent again, 100 ms
later. Each request has its own connection, as with many clients. The last line of output is JSON: how often each label
was the first in an answer, the failures, the number of retries, and the longest time until an answer, in seconds.
"""

import collections
import json
import pathlib
import sys
import threading
import time

import httpx

STOP = pathlib.Path("/tmp/stop")  # noqa: S108 (the pod's own volume)
URL, (THREADS, ROWS, RETRIES) = sys.argv[1], map(int, sys.argv[2:])
PAUSE_SECONDS = 0.1
BODY = json.dumps({"data": [[5.1, 3.5, 1.4, 0.2]] * ROWS}).encode()

answers: collections.Counter[str] = collections.Counter()
failures: list[str] = []
retries: list[str] = []
seconds: list[float] = []


def ask() -> None:
    with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while not STOP.exists():
            begin = time.monotonic()
            for attempt in range(RETRIES + 1):
                try:
                    response = client.post(URL, content=BODY, headers={"content-type": "application/json"})
                    response.raise_for_status()
                    prediction = response.json()["prediction"]
                except (httpx.HTTPError, ValueError) as error:
                    (retries if attempt < RETRIES else failures).append(repr(error))
                    time.sleep(PAUSE_SECONDS)
                else:
                    answers[prediction if ROWS == 1 else prediction[0]] += 1
                    seconds.append(time.monotonic() - begin)
                    break


threads = [threading.Thread(target=ask) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
slowest = max(seconds, default=0.0)
print(json.dumps({"answers": answers, "failures": failures, "retries": len(retries), "slowest": slowest}))
