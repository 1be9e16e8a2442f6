"""The interface of a protocol: how requests ask for predictions, and how their answers are written."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from model_server.model.rows import InvalidRowsError, Rows

Headers = Sequence[tuple[bytes, bytes]]


class WireProtocol(Protocol):
    """Reads the bodies of requests and writes those of answers.

    Attributes:
        media_types: the media types that a request may have; the first is that of a request without one.
        error_field: the field of an error body that has the sentence.
    """

    media_types: Collection[bytes]
    error_field: str

    def read(self, body: bytes, headers: Mapping[bytes, bytes], request_id: bytes) -> tuple[Rows, Any]:
        """Return the rows of a request, and the rest of it in the form that `write` and the methods' calls take.

        Raises:
            BodyError: the body is not a request of this protocol.
            InvalidRowsError: the rows are invalid for the model.
        """

    def write(self, answers: Any, ask: Any) -> tuple[bytes, Headers]:  # noqa: ANN401 (the protocol's)
        """Return the body of an answer and, if it is not JSON, the headers that describe it, with its content type."""

    def describe(self, error: InvalidRowsError) -> str:
        """Return an error in the rows as one sentence."""
