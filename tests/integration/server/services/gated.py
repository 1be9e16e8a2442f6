"""A service whose model does not answer some rows while a gate file exists."""

import json
import os
import time
from pathlib import Path

import bentoml

import service
from model_server.adapters.bento import ModelService
from model_server.model.model import Model
from model_server.model.rows import Array, Rows
from model_server.settings import Settings

GATE = Path(os.environ["GATE"])


class GatedModel(Model):
    """A model that blocks on a row starting with 9 while the gate file exists; two rows run in a thread."""

    def predict(self, rows: Rows) -> Array:
        if rows[0, 0] == 9:
            GATE.with_name("begun").touch()
            while GATE.exists():
                time.sleep(0.02)
        return super().predict(rows)

    def estimate_latency(self, rows: int) -> float:
        return 1 if rows == 2 else super().estimate_latency(rows)


@bentoml.service(  # type: ignore[operator]
    name="model_load_server", service_class=ModelService, **json.loads(os.environ.get("OPTIONS", "{}"))
)
@bentoml.asgi_app(service.app)
class Gated(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with the gated model."""

    def __init__(self) -> None:
        self.model = GatedModel.load(Settings.read(os.environ))
