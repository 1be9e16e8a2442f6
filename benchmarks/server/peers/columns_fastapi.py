# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "fastapi==0.165.0", "numpy==2.4.6", "onnxruntime==1.32.0", "orjson==3.13.0", "uvicorn[standard]==0.54.0",
# ]
# ///
"""A FastAPI service for rows of named columns, in its fastest form: no thread, an array per column, orjson."""

import os

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

app = FastAPI()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL_FILEPATH"], options)
probabilities = session.get_outputs()[-1].name


class Row(BaseModel):
    number_0: float
    number_1: float
    number_2: float
    number_3: float
    number_4: float
    number_5: float
    number_6: float
    number_7: float
    category_0: str
    category_1: str
    category_2: str
    category_3: str


class Rows(BaseModel):
    data: list[Row]


types = {name: object if field.annotation is str else np.float32 for name, field in Row.model_fields.items()}


@app.get("/health")
async def health():
    return {"health": "ok"}


@app.post("/predict")
async def predict(rows: Rows):
    columns = {name: np.array([[getattr(row, name)] for row in rows.data], dtype) for name, dtype in types.items()}
    answer = session.run([probabilities], columns)[0]
    return Response(orjson.dumps({"prediction": answer.tolist()}), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False, log_level="warning")
