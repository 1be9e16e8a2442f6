"""`make serve EXAMPLE=…`: the loader copies an example, which has no label file, and the service serves it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ONE_PROCESS, ROOT, interpreter, serving


@pytest.mark.parametrize("example", ["titanic", "text", "house"])
def test_loads_and_serves(example: str, tmp_path: Path) -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "serve", f"EXAMPLE={example}"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    [variable] = [word for word in recipe.stdout.split() if word.startswith("LOCAL_MODEL_FILEPATH=")]
    files = {"MODEL_FILEPATH": str(tmp_path / "model.onnx"), "LABEL_FILEPATH": str(tmp_path / "label.json")}
    name, _, path = variable.partition("=")
    subprocess.run(
        [interpreter("loader"), "-m", "loader"],
        cwd=ROOT,
        env={**os.environ, **files, name: path, "USE_LOCAL_MODEL": "true"},
        check=True,
    )
    with serving(tmp_path, files, command=ONE_PROCESS) as server:
        metadata = server.client.get("/metadata").json()
        prediction = server.predict(metadata["data_sample"])
        if example == "house":
            assert prediction == pytest.approx(metadata["prediction_sample"][0], abs=0.01)
        else:
            assert prediction == pytest.approx(metadata["prediction_sample"], abs=0.01)
            assert (
                server.predict(metadata["data_sample"], "/predict/label") in server.client.get("/label").json().values()
            )
