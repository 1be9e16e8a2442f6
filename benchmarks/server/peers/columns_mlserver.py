# /// script
# requires-python = ">=3.11"
# dependencies = ["mlserver==1.7.1", "numpy<3", "onnxruntime==1.32.0", "uvloop<0.22"]
# ///
"""An MLServer runtime that decodes a data frame, as its documentation does."""

import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Columns(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.dtypes = {
            found.name: object if "string" in found.type else np.float32 for found in self.session.get_inputs()
        }
        self.probabilities = self.session.get_outputs()[-1].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        frame = PandasCodec.decode_request(payload)
        columns = {name: frame[[name]].to_numpy(dtype) for name, dtype in self.dtypes.items()}
        answer = self.session.run([self.probabilities], columns)[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("prediction", answer)])
