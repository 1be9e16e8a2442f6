"""Types for the method signatures in `service.py`."""

from typing import Annotated, Any

import numpy.typing as npt
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from model_server.model.metadata import Metadata

__all__ = ["ClassNames", "Error", "Health", "Labels", "Metadata", "Predictions", "Rows"]


class ArraySchema:
    """Annotation for arrays that are sent as JSON arrays; the model validates their elements.

    Args:
        description: description of the array's content.
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept anything."""
        return core_schema.any_schema()

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of an array with any elements."""
        return {"type": "array", "items": {}, "description": self.description}


class RowsSchema(ArraySchema):
    """Annotation of the rows parameter; a method with such a parameter takes rows."""


# A parameter of this type receives the validated rows of a call: an array of shape (N, *row_shape) and the model's
# dtype, or `model_server.model.rows.Columns` if the model has several inputs. The method must return a sequence with
# one answer per row, in order.
Rows = Annotated[npt.NDArray[Any], RowsSchema("Rows, each with the shape that the model takes.")]
# One prediction per row: depending on the model's task, the probabilities of its classes or labels, or its values.
Predictions = Annotated[npt.NDArray[Any], ArraySchema("The prediction of the model, for each row.")]
# One class name or one list of labels per row. Routes that return it answer 404 for a model that predicts values.
Labels = Annotated[list[str] | list[list[str]], "class names"]
# All class names by index. Routes that return it answer 404 for a model that predicts values.
ClassNames = Annotated[dict[str, str], "class names by index"]


class Health(BaseModel):
    """The service is up."""

    health: str = "ok"


class Error(BaseModel):
    """An error: what was wrong and what was expected, in one sentence."""

    detail: str
