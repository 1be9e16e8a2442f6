"""The types that `service.py` declares its methods with."""

from typing import Annotated, Any

import numpy.typing as npt
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from model_server.model.metadata import Metadata

__all__ = ["ClassNames", "Error", "Health", "Labels", "Metadata", "Predictions", "Rows"]


class ArraySchema:
    """An annotation for arrays that are JSON arrays on the wire; the model checks what is in them.

    Args:
        description: what the array holds.
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept anything."""
        return core_schema.any_schema()

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say that it is an array."""
        return {"type": "array", "items": {}, "description": self.description}


class RowsSchema(ArraySchema):
    """The annotation of the parameter that makes a method one that takes rows."""


# A method with a parameter of this type gets the rows of a call, checked, as one array of shape (N, *row_shape) and the
# model's dtype, or as `model_server.model.rows.Columns` where the model has several inputs. It returns a sequence with
# one answer per row, in order.
Rows = Annotated[npt.NDArray[Any], RowsSchema("Rows, each of the shape that the model takes.")]
# One prediction per row, by the task of the model: the probabilities of its classes or labels, or its values.
Predictions = Annotated[npt.NDArray[Any], ArraySchema("The prediction of the model, for each row.")]
# The name of a class for each row, or the list of labels. A model of values has none: it has no such route.
Labels = Annotated[list[str] | list[list[str]], "class names"]
# All class names by their index. A model of values has no such route either.
ClassNames = Annotated[dict[str, str], "class names by index"]


class Health(BaseModel):
    """The service is up."""

    health: str = "ok"


class Error(BaseModel):
    """What was wrong and what was expected, in one sentence."""

    detail: str
