# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "fastapi==0.165.0", "numpy==2.4.6", "onnxruntime==1.32.0", "orjson==3.13.0", "uvicorn[standard]==0.54.0",
# ]
# ///
"""A FastAPI service in its fastest form: no thread, one thread per inference, orjson for the answer."""

import os

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

app = FastAPI()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
name = session.get_inputs()[0].name
probabilities = session.get_outputs()[-1].name


class Rows(BaseModel):
    data: list[list[float]]


@app.get("/health")
async def health():
    return {"health": "ok"}


@app.post("/predict")
async def predict(rows: Rows):
    answer = session.run([probabilities], {name: np.array(rows.data, np.float32)})[0]
    return Response(orjson.dumps({"prediction": answer.tolist()}), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False, log_level="warning")
