# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "onnxruntime==1.32.0", "orjson==3.13.0", "uvicorn[standard]==0.54.0"]
# ///
"""The floor: the smallest server on uvicorn that gives correct answers, without checks, limits, metrics or errors."""

import os

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn

session = ort.InferenceSession(os.environ["MODEL_FILEPATH"])
name = session.get_inputs()[0].name
probabilities = session.get_outputs()[-1].name
head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}


async def app(scope, receive, send):
    body = b""
    while scope["path"] == "/predict":
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    if body:
        rows = np.array(orjson.loads(body)["data"], np.float32)
        answer = orjson.dumps({"prediction": session.run([probabilities], {name: rows})[0].tolist()})
    else:
        answer = b'{"health":"ok"}'
    await send(head)
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), lifespan="off", access_log=False, log_level="warning")
