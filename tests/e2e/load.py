"""Request labels from a server until the file /tmp/stop exists; runs in a pod of the server's image, which has httpx.

Arguments: the URL, the number of threads, and the rows per request. Each request has its own connection, as with many
clients. The last line of output is JSON: how often each label was the first in an answer, and the failures.
"""

import collections
import json
import pathlib
import sys
import threading

import httpx

STOP = pathlib.Path("/tmp/stop")  # noqa: S108 (the pod's own volume)
URL, THREADS, ROWS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
BODY = json.dumps({"data": [[5.1, 3.5, 1.4, 0.2]] * ROWS}).encode()

answers: collections.Counter[str] = collections.Counter()
failures: list[str] = []


def ask() -> None:
    with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while not STOP.exists():
            try:
                response = client.post(URL, content=BODY, headers={"content-type": "application/json"})
                response.raise_for_status()
                prediction = response.json()["prediction"]
                answers[prediction if ROWS == 1 else prediction[0]] += 1
            except (httpx.HTTPError, ValueError) as error:
                failures.append(repr(error))


threads = [threading.Thread(target=ask) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"answers": answers, "failures": failures}))
