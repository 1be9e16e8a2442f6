"""Asks a server with tritonclient, and prints the answers as one JSON document."""

import json
import sys

import numpy as np
from tritonclient import http
from tritonclient.utils import InferenceServerException

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]], np.float32)
MODEL = "iris_svc"
OUTPUTS = ("probabilities", "label")


def inputs(rows: np.ndarray = ROWS, *, is_binary: bool = True, datatype: str = "FP32") -> list[http.InferInput]:
    tensor = http.InferInput("data", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=is_binary)
    return [tensor]


def outputs(*, is_binary: bool) -> list[http.InferRequestedOutput]:
    return [http.InferRequestedOutput(name, binary_data=is_binary) for name in OUTPUTS]


def shown(result: http.InferResult) -> dict[str, object]:
    probabilities, labels = map(result.as_numpy, OUTPUTS)
    return {
        "probabilities": probabilities.tolist(),
        "labels": [label.decode() if isinstance(label, bytes) else label for label in labels.tolist()],
        "id": result.get_response().get("id"),
    }


def refusal(client: http.InferenceServerClient, *arguments: object, **options: object) -> list[str]:
    try:
        client.infer(*arguments, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    raise AssertionError("the server has accepted it")


def main(url: str) -> None:
    client = http.InferenceServerClient(url, concurrency=4)
    top = [http.InferRequestedOutput("probabilities", binary_data=False, class_count=2)]
    pending = [client.async_infer(MODEL, inputs()) for _ in range(3)]
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": [
            client.is_model_ready(MODEL),
            client.is_model_ready("other"),
            client.is_model_ready(MODEL, "1"),
        ],
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(MODEL),
        "binary": shown(client.infer(MODEL, inputs(), request_id="an id")),
        "JSON": shown(client.infer(MODEL, inputs(is_binary=False), outputs=outputs(is_binary=False))),
        "binary in": shown(client.infer(MODEL, inputs(), outputs=outputs(is_binary=False))),
        "binary out": shown(client.infer(MODEL, inputs(is_binary=False), outputs=outputs(is_binary=True))),
        "many": [len(client.infer(MODEL, inputs(np.tile(ROWS, (1000, 1)))).as_numpy(name)) for name in OUTPUTS],
        "asynchronous": [shown(answer.get_result()) for answer in pending],
        "classes": client.infer(MODEL, inputs(), outputs=top).as_numpy("probabilities").tolist(),
        "unknown model": refusal(client, "other", inputs()),
        "wrong datatype": refusal(client, MODEL, inputs(ROWS.astype(np.float64), datatype="FP64")),
        "not a number": refusal(client, MODEL, inputs(ROWS * np.float32("nan"))),
        "unknown output": refusal(client, MODEL, inputs(), outputs=[http.InferRequestedOutput("logits")]),
        "gzip": refusal(client, MODEL, inputs(), request_compression_algorithm="gzip"),
    }
    client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
