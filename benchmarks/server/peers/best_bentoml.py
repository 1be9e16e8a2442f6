# /// script
# requires-python = ">=3.11"
# dependencies = ["bentoml==1.4.39", "fastapi==0.165.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""A BentoML service in its fastest forms: asynchronous, without tracing and access log, and with adaptive batching."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from fastapi import FastAPI

app = FastAPI()
batching = {"batchable": True, "max_batch_size": 64, "max_latency_ms": 1000}


@bentoml.service(logging={"access": {"enabled": False}}, tracing={"excluded_urls": ".*"}, metrics={"enabled": False})
@bentoml.asgi_app(app)
class Iris:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.name = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name

    @app.get("/health")
    async def health(self):
        return {"health": "ok"}

    @bentoml.api
    async def predict(self, data: list[list[float]]) -> dict[str, list[list[float]]]:
        answer = self.session.run([self.probabilities], {self.name: np.array(data, np.float32)})[0]
        return {"prediction": answer.tolist()}

    @bentoml.api(**batching)
    async def predict_together(self, data: list[list[float]]) -> list[list[float]]:
        answer = self.session.run([self.probabilities], {self.name: np.array(data, np.float32)})[0]
        return answer.tolist()
