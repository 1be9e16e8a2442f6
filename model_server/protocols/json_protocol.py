"""The specification's protocol: `{"data": [row, ...]}` is answered with `{"prediction": ...}`."""

from collections.abc import Collection, Mapping
from typing import Any

import pydantic

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import InvalidRowsError, Rows
from model_server.protocols.json_body import BodyError, format_error
from model_server.protocols.json_columns import make_rows_parser
from model_server.protocols.json_rows import Answers, encode_answers
from model_server.protocols.protocol import Headers


class JsonProtocol:
    """Reads and writes the bodies of one declared method.

    Args:
        spec: types and shapes of the rows.
        field: the body field with the rows.
        parameters: a pydantic model of the other fields; None if there are none.
    """

    media_types: Collection[bytes] = (b"application/json",)
    error_field = "detail"

    def __init__(
        self, spec: RowSpec | ColumnsSpec, field: str, parameters: type[pydantic.BaseModel] | None = None
    ) -> None:
        self._field = field
        self._parameters = parameters
        self._rows = make_rows_parser(spec, field)
        self._parse = self._rows.parse

    def read(
        self, body: bytes, _headers: Mapping[bytes, bytes], _request_id: bytes
    ) -> tuple[Rows, dict[str, Any] | None]:
        """Return the rows, and the other fields by name, or None if the method has no other parameters."""
        if self._parameters is None:
            return self._parse(body), None
        rows, fields = self._rows.parse_with_fields(body)
        try:
            parameters = self._parameters.model_validate(fields)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(map(str, problem["loc"]))
            raise BodyError("field-invalid", f'The field "{name}" is invalid: {problem["msg"]}.') from error
        return rows, {name: getattr(parameters, name) for name in self._parameters.model_fields}

    def write(self, answers: Answers, _ask: object) -> tuple[bytes, Headers]:
        """Return the body of the answer."""
        return encode_answers(answers), ()

    def describe(self, error: InvalidRowsError) -> str:
        """Return an error in the rows as one sentence."""
        return format_error(error, self._field)
