# /// script
# requires-python = ">=3.11"
# dependencies = ["litserve==0.2.19", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""A LitServe service as in its documentation; with `BEST`, with the options of its pages on performance."""

import os

import litserve as ls
import numpy as np
import onnxruntime as ort

best = "BEST" in os.environ
max_batch_size = int(os.environ.get("MAX_BATCH_SIZE", "1"))


class Iris(ls.LitAPI):
    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1 if best else 0
        self.session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
        self.name = self.session.get_inputs()[0].name
        self.probabilities = self.session.get_outputs()[-1].name

    def decode_request(self, request):
        return np.array(request["data"], np.float32)

    def predict(self, rows):
        return self.session.run([self.probabilities], {self.name: rows})[0]

    def encode_response(self, answer):
        return {"prediction": answer.tolist()}


class Batches(Iris):
    """Requests of one row each."""

    def batch(self, inputs):
        return np.concatenate(inputs)

    def unbatch(self, output):
        return list(output[:, None])


if __name__ == "__main__":
    api = Batches(max_batch_size=max_batch_size, batch_timeout=0.001) if max_batch_size > 1 else Iris()
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=best)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
