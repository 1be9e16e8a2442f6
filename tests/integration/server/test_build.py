"""`bentoml build`, and the bento served from the store."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.processes import IRIS, ROOT, service_environment, serving


def test_build_and_serve(tmp_path: Path) -> None:
    environment = service_environment(tmp_path, {})
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [source] = (tmp_path / "bentos" / "model_load_server").glob("*/src")
    packed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    ours = {str(path.relative_to(ROOT)) for name in ("model_server", "volume") for path in (ROOT / name).rglob("*.py")}
    assert packed == {"service.py", "bentofile.yaml", "model_server/http/page.html", *ours}
    required = (source.parent / "env" / "python" / "requirements.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"]:
        name = re.split(r"[^\w-]", dependency)[0]
        assert re.search(rf"^{name}==\S+", required, re.MULTILINE), name
    with serving(tmp_path, IRIS, "model_load_server:latest") as server:
        assert server.predict([[5.1, 3.5, 1.4, 0.2]], "/predict/label") == "setosa"
        assert server.client.get("/").text.startswith("<!doctype html>")
