# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "onnxruntime==1.32.0", "orjson==3.13.0", "uvicorn[standard]==0.54.0"]
# ///
"""The floor for rows of named columns: without a check, a limit, a metric or an error."""

import os

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn

session = ort.InferenceSession(os.environ["MODEL_FILEPATH"])
types = {found.name: object if "string" in found.type else np.float32 for found in session.get_inputs()}
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
        rows = orjson.loads(body)["data"]
        columns = {name: np.array([[row[name]] for row in rows], dtype) for name, dtype in types.items()}
        answer = orjson.dumps({"prediction": session.run([probabilities], columns)[0].tolist()})
    else:
        answer = b'{"health":"ok"}'
    await send(head)
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), lifespan="off", access_log=False, log_level="warning")
