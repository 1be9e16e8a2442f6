"""Asks a server with KServe's client, and prints the answers as one JSON document."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]], np.float32)
MODEL = "iris_svc"


def request(*, is_binary: bool, dtype: str = "float32") -> InferRequest:
    rows = ROWS.astype(dtype)
    tensor = InferInput("data", list(rows.shape), {"float32": "FP32", "float64": "FP64"}[dtype])
    tensor.set_data_from_numpy(rows, binary_data=is_binary)
    return InferRequest(MODEL, [tensor], parameters={"binary_data_output": is_binary})


async def main(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found: dict[str, object] = {
        "ready": [
            await client.is_server_ready(url),
            await client.is_server_live(url),
            await client.is_model_ready(url, MODEL),
        ]
    }
    for name, is_binary in (("JSON", False), ("binary", True)):
        answer = await client.infer(url, request(is_binary=is_binary), model_name=MODEL)
        found[name] = {output.name: output.as_numpy().ravel().tolist() for output in answer.outputs}
    try:
        await client.infer(url, request(is_binary=False, dtype="float64"), model_name=MODEL)
    except httpx.HTTPStatusError as error:
        found["error"] = str(error)
    await client.close()
    print(json.dumps(found, default=lambda value: value.decode()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
