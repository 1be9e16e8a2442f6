"""The service with other BentoML options, read as JSON from the environment variable OPTIONS."""

import json
import os

import bentoml

import service
from model_server.adapters.bento import ModelService


@bentoml.service(  # type: ignore[operator]
    name="model_load_server", service_class=ModelService, **json.loads(os.environ["OPTIONS"])
)
@bentoml.asgi_app(service.app)
class Options(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with those options."""
