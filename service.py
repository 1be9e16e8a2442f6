"""The service: five routes that serve the model in the volume."""

import bentoml
from fastapi import FastAPI, Response

from model_server.adapters.bento import ModelService, served_model, supervise
from model_server.api import ClassNames, Error, Health, Labels, Metadata, Predictions, Rows

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, responses={500: {"model": Error}})


@bentoml.service(name="model_load_server", service_class=ModelService)  # type: ignore[operator]
@bentoml.asgi_app(app)
class ModelLoadServer:
    """Serves the ONNX model at MODEL_FILEPATH with the class names at LABEL_FILEPATH."""

    before_workers = supervise

    def __init__(self) -> None:
        self.model = served_model()

    @app.get("/health")
    async def health(self) -> Health:
        """Report that the service is up."""
        return Health()

    @app.get("/metadata", response_model_exclude_none=True)
    async def metadata(self, response: Response) -> Metadata:
        """Return the input and output types, shapes and a sample of the model. The ETag is its identity."""
        response.headers["etag"] = self.model.etag
        return self.model.metadata

    @app.get("/label")
    async def label(self) -> ClassNames:
        """Return the names of the classes by their index."""
        return self.model.labels

    @bentoml.api(route="/predict")
    def predict(self, data: Rows) -> Predictions:
        """Return the probability of each class or, for a model that predicts values, the values."""
        return self.model.predict(data)

    @bentoml.api(route="/predict/label")
    def predict_label(self, data: Rows) -> Labels:
        """Return the name of the most probable class."""
        return self.model.predict_label(data)
