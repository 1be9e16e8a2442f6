# /// script
# requires-python = ">=3.11"
# dependencies = ["kserve==0.21.0", "numpy<3", "onnxruntime==1.32.0"]
# ///
"""A KServe predictor for the Open Inference Protocol, as in its documentation, with one thread per inference."""

import os

import kserve
import onnxruntime as ort
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.utils import generate_uuid


class Iris(kserve.Model):
    def __init__(self):
        super().__init__("model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.name_of_input = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name
        self.ready = True

    def predict(self, payload: InferRequest, headers=None):
        answer = self.session.run([self.probabilities], {self.name_of_input: payload.inputs[0].as_numpy()})[0]
        output = InferOutput("probabilities", list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=bool(payload.use_binary_outputs))
        return InferResponse(
            payload.id or generate_uuid(),
            self.name,
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=None,
        )


if __name__ == "__main__":
    # KServe has no settings for its address (0.0.0.0) and its access log, which the other peers do not write.
    config = uvicorn.Config.__init__
    uvicorn.Config.__init__ = lambda self, app, **kw: config(
        self, app, **{**kw, "host": "127.0.0.1", "access_log": False}
    )
    server = kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, enable_latency_logging=False)
    server.start([Iris()])
