"""Different kinds of models, served by changing only two environment variables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.classifiers import classifier, expected, save
from tests.support.processes import ONE_PROCESS, serving

KINDS: dict[str, dict[str, Any]] = {
    "an image of rank 4, one at a time, in float16": {
        "input_type": TensorProto.FLOAT16,
        "row_shape": (1, 4, 4),
        "batch": 1,
        "classes": 10,
    },
    "784 bytes per row, a thousand classes as maps, and a label": {
        "input_type": TensorProto.UINT8,
        "row_shape": (784,),
        "classes": 1000,
        "zip_map": True,
        "label_output": True,
    },
    "string classes": {"zip_map": True, "names": ["red", "green", "blue"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_serves(tmp_path: Path, kind: str) -> None:
    options = KINDS[kind]
    count = options.get("classes", 3)
    labels = options.get("names") or [f"class {index}" for index in range(count)]
    model_path, label_path = save(classifier(**options), tmp_path, labels)
    rows = np.random.default_rng(0).integers(0, 2, (3, *options.get("row_shape", (4,))))
    answer = expected(rows, count)
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(rows[:1].tolist()), answer[0], atol=1e-6)
        np.testing.assert_allclose(server.predict(rows.tolist()), answer, atol=1e-6)
        names = [labels[index] for index in answer.argmax(axis=1)]
        assert server.predict(rows.tolist(), "/predict/label") == names
        metadata = server.client.get("/metadata").json()
        assert server.client.get("/label").json() == {str(index): name for index, name in enumerate(labels)}
    assert metadata["data_shape"] == str((1, *rows.shape[1:]))
    assert metadata["prediction_shape"] == str((1, count))
    assert np.array(metadata["data_sample"]).shape == (1, *rows.shape[1:])
