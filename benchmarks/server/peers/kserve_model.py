# /// script
# requires-python = ">=3.11"
# dependencies = ["kserve==0.21.0", "numpy<3", "onnxruntime==1.32.0"]
# ///
"""A KServe predictor as in its documentation; with `BEST`, with one thread per inference."""

import os

import kserve
import numpy as np
import onnxruntime as ort
import uvicorn


class Iris(kserve.Model):
    def __init__(self):
        super().__init__("iris")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1 if "BEST" in os.environ else 0
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.name_of_input = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name
        self.ready = True

    def predict(self, payload, headers=None):
        rows = np.array(payload["instances"], np.float32)
        return {"predictions": self.session.run([self.probabilities], {self.name_of_input: rows})[0].tolist()}


if __name__ == "__main__":
    # KServe has no settings for its address (0.0.0.0) and its access log, which the other peers do not write.
    config = uvicorn.Config.__init__
    uvicorn.Config.__init__ = lambda self, app, **kw: config(
        self, app, **{**kw, "host": "127.0.0.1", "access_log": False}
    )
    server = kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, enable_latency_logging=False)
    server.start([Iris()])
