# /// script
# requires-python = ">=3.11"
# dependencies = ["litserve==0.2.19", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""A LitServe service in the style of its documentation."""

import os

import litserve as ls
import numpy as np
import onnxruntime as ort


class Iris(ls.LitAPI):
    def setup(self, device):
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"])
        self.name = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name

    def decode_request(self, request):
        return np.array(request["data"], np.float32)

    def predict(self, rows):
        return self.session.run([self.probabilities], {self.name: rows})[0]

    def encode_response(self, answer):
        return {"prediction": answer.tolist()}


if __name__ == "__main__":
    server = ls.LitServer(Iris(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
