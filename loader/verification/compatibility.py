"""Check of the model's format version against the versions that the service supports."""

from loader.errors import IntegrityError
from volume.onnx_file import OnnxInfo, parse_opsets


def check_compatibility(model: OnnxInfo, uri: str, max_ir_version: int | None, max_opset: str) -> None:
    """Check that the service supports the versions of a model.

    Raises:
        IntegrityError: a version is later than `MAX_IR_VERSION` or `MAX_OPSET`.
    """
    newer = []
    if max_ir_version is not None and model.ir_version > max_ir_version:
        newer.append(f"IR version {model.ir_version} (MAX_IR_VERSION is {max_ir_version})")
    newer += [
        f"opset {model.opsets[domain]} of {domain} (MAX_OPSET allows {most})"
        for domain, most in parse_opsets(max_opset).items()
        if model.opsets.get(domain, 0) > most
    ]
    if newer:
        raise IntegrityError(
            "model-too-new",
            f"{uri} is too new for the service, with {' and '.join(newer)}: export it for an older version, or roll "
            "out a newer service first",
        )
