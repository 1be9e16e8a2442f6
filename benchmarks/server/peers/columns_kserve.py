# /// script
# requires-python = ">=3.11"
# dependencies = ["kserve==0.21.0", "numpy<3", "onnxruntime==1.32.0", "pandas"]
# ///
"""A KServe predictor that makes a data frame of its instances, as its documentation does."""

import os

import kserve
import numpy as np
import onnxruntime as ort
import pandas as pd
import uvicorn


class Columns(kserve.Model):
    def __init__(self):
        super().__init__("columns")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.types = {
            found.name: object if "string" in found.type else np.float32 for found in self.session.get_inputs()
        }
        self.probabilities = self.session.get_outputs()[-1].name
        self.ready = True

    def predict(self, payload, headers=None):
        frame = pd.DataFrame(payload["instances"])
        columns = {name: frame[[name]].to_numpy(dtype) for name, dtype in self.types.items()}
        return {"predictions": self.session.run([self.probabilities], columns)[0].tolist()}


if __name__ == "__main__":
    # KServe has no setting for its address, which is all of them, nor for its access log, which no peer writes here.
    config = uvicorn.Config.__init__
    uvicorn.Config.__init__ = lambda self, app, **kw: config(
        self, app, **{**kw, "host": "127.0.0.1", "access_log": False}
    )
    server = kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, enable_latency_logging=False)
    server.start([Columns()])
