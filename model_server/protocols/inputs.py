"""The inputs that requests of the Open Inference Protocol must have."""

import json

import numpy as np

from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array
from model_server.protocols.json_rows import JsonRows
from model_server.protocols.tensors import DTYPES, datatype_of

_SHOWN = 80  # characters of a name in a message


class Input:
    """An input that requests must have.

    Attributes:
        name: its name.
        about: its name in messages.
        spec: type and shape of its values.
        datatype: the protocol's name of that type.
        shape: its shape, with -1 for any length.
        row_bytes: the number of bytes of a binary row; 0 if that varies, or if not all bytes are valid values.
    """

    def __init__(self, name: str, spec: RowSpec) -> None:
        self.name = name
        self.about = f"input {quoted(name)}"
        self.spec = RowSpec(spec.dtype, spec.row_shape, max_length=spec.max_length, takes_booleans=True)
        self.datatype = datatype_of(spec.dtype)
        self.shape = [-1, *(-1 if length is None else length for length in spec.row_shape)]
        self.row_bytes = 0 if spec.dtype.kind in "Ob" else spec.row_size * spec.dtype.itemsize
        self._json = JsonRows(self.spec)

    def from_json(self, data: bytes, count: int) -> Array | None:
        """Return the rows in JSON data, of which there is at least one; None if they may be invalid."""
        return self._json.read_array(data, count) if data and self.spec.row_size else None

    def from_bytes(self, body: bytes, start: int, count: int) -> Array | None:
        """Return binary rows, whose bytes are all in the body; None if a number is not finite."""
        array = np.frombuffer(body, DTYPES[self.datatype], count * self.spec.row_size, start)
        if not array.flags.aligned:
            array = array.copy()
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return None
        return array.reshape(count, *self.spec.row_shape)


def quoted(name: str) -> str:
    """Return a name for a message."""
    return json.dumps(name[:_SHOWN], ensure_ascii=False)
