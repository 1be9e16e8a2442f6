"""Tensors of the Open Inference Protocol: their types, and their bytes."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, InvalidRowsError

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in _DATATYPES.items()}
BYTES = "BYTES"
_BY_CODE = {np.dtype(name).str[1:]: datatype for name, datatype in _DATATYPES.items()}  # `dtype.name` takes 4 us
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """The bytes of a tensor do not have its shape and datatype; the message continues a sentence about the tensor."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of an array's type; text and other objects are BYTES."""
    return _BY_CODE.get(dtype.str[1:], BYTES)


def decode(body: bytes, start: int, size: int, datatype: str, shape: tuple[int, ...]) -> Array:
    """Return the tensor in `size` bytes of a body, as an array over these bytes where their alignment allows that.

    Args:
        body: the body.
        start: the offset of the first byte.
        size: the number of bytes, all of which are in the body.
        datatype: the datatype.
        shape: the shape; its product is not zero.

    Raises:
        TensorError: the bytes are more or fewer than the shape needs, or are not values of the datatype.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return np.array(_decode_text(body, start, size, count), np.object_).reshape(shape)
    dtype = DTYPES[datatype]
    if size != count * dtype.itemsize:
        raise TensorError(
            f"has {size} bytes; expected {count * dtype.itemsize}, {dtype.itemsize} for each of its values"
        )
    if datatype == "BOOL" and not np.isin(np.frombuffer(body, np.uint8, count, start), (0, 1)).all():
        raise TensorError("has a byte that is neither 0 nor 1")
    array = np.frombuffer(body, dtype, count, start)
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def check_finite(array: Array, spec: RowSpec) -> None:
    """Raise `InvalidRowsError` for the first number of an array that is not finite."""
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        index = np.unravel_index(int(finite.argmin()), array.shape)
        smallest, largest = spec.limits
        raise InvalidRowsError(
            tuple(map(int, index)), f"is {array[index]}; expected a number from {smallest} to {largest}"
        )


def encode(array: Array) -> bytes:
    """Return the bytes of a tensor."""
    if array.dtype.kind != "O":
        return array.astype(DTYPES[datatype_of(array.dtype)], copy=False).tobytes()
    strings = [text.encode() for text in array.ravel().tolist()]
    return b"".join(part for text in strings for part in (_LENGTH.pack(len(text)), text))


def _decode_text(body: bytes, start: int, size: int, count: int) -> Sequence[str]:
    if size < count * _LENGTH.size:
        raise TensorError(f"has {size} bytes; expected {count} strings, each after its length in {_LENGTH.size} bytes")
    end = start + size
    strings = []
    for index in range(count):
        if start + _LENGTH.size > end:
            raise TensorError(f"ends before the length of string {index}")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if start + length > end:
            raise TensorError(f"has a string {index} of {length} bytes, but {end - start} are left")
        try:
            strings.append(body[start : start + length].decode())
        except UnicodeDecodeError:
            raise TensorError(f"has a string {index} that is not UTF-8") from None
        start += length
    if start != end:
        raise TensorError(f"has {end - start} bytes after its last string; expected none")
    return strings
