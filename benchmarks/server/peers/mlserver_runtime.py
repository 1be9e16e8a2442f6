# /// script
# requires-python = ">=3.11"
# dependencies = ["mlserver==1.7.1", "numpy<3", "onnxruntime==1.32.0", "uvloop<0.22"]
# ///
"""An MLServer runtime as in its documentation; with `BEST`, with one thread per inference."""

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Iris(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1 if "BEST" in os.environ else 0
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.name_of_input = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.session.run([self.probabilities], {self.name_of_input: rows})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("prediction", answer)])
