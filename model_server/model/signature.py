"""Determines the inputs and the output of an ONNX file by inspecting and calling it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.graph import Graph
from model_server.model.inputs import Inputs, read_inputs, try_rows
from model_server.model.outputs import CLASS_NAMES_PROPERTY, FileOutputs, Output, find_output
from model_server.model.rows import repeat
from model_server.model.tasks import OUTPUT_PROPERTY, ModelOutput


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model.

    Attributes:
        inputs: the inputs.
        output: the output that is served.
        outputs: all outputs as the file declares them, each with `name`, `type` and `shape`.
        properties: the metadata properties of the file.
        producer: the tool that wrote the file, as recorded in it.
    """

    inputs: Inputs
    output: Output
    outputs: Sequence[ort.NodeArg]
    properties: Mapping[str, str]
    producer: str


def read_signature(
    session: ort.InferenceSession, graph: Graph, labels: Sequence[str] | None, choice: ModelOutput | None
) -> Signature:
    """Return the signature of the model, verified by calling the model.

    Args:
        session: a session for the file.
        graph: the nodes of the file.
        labels: class names from the label file; None without one.
        choice: the output to serve and its kind; None to read them from the file.

    Raises:
        StartError: the file cannot be served, or its class count differs from the number of labels. The reason
            continues a sentence that starts with the file's name: "has 2 inputs ...".
    """
    meta = session.get_modelmeta()
    properties = meta.custom_metadata_map
    inputs = read_inputs(session, graph)
    outputs = FileOutputs(
        declared=session.get_outputs(),
        dynamic_dimensions=_dynamic_dimensions(session),
        trials=list(try_rows(session, inputs)),
        batch=inputs.batch or 1,
        graph=graph,
        class_names=properties.get(CLASS_NAMES_PROPERTY),
        producer=meta.producer_name,
    )
    output = find_output(outputs, labels, choice or _choice_from_properties(properties))
    if not inputs.batch and not _accepts_two_rows(session, inputs, output):
        inputs = replace(inputs, batch=1)
    return Signature(inputs, output, outputs.declared, properties, meta.producer_name)


def _choice_from_properties(properties: Mapping[str, str]) -> ModelOutput | None:
    text = properties.get(OUTPUT_PROPERTY)
    if not text:
        return None
    try:
        return ModelOutput.parse(text)
    except ValueError as error:
        raise StartError(
            "model-output",
            f'has a metadata property "{OUTPUT_PROPERTY}" that {error}',
            "correct the property, or set MODEL_OUTPUT, which overrides it",
        ) from error


def _dynamic_dimensions(session: ort.InferenceSession) -> frozenset[str]:
    """Return the names of the dynamic input dimensions, except the batch dimension."""
    dimensions = [length for found in session.get_inputs() for length in (found.shape or ())[1:]]
    batches = {length for found in session.get_inputs() for length in (found.shape or ())[:1]}
    return frozenset(length for length in dimensions if isinstance(length, str) and length not in batches)


def _accepts_two_rows(session: ort.InferenceSession, inputs: Inputs, output: Output) -> bool:
    """Return whether the model takes two rows; some declare a dynamic batch dimension but contain a fixed one."""
    try:
        [value] = session.run([output.name], inputs.feed(repeat(output.sample, 2)))
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors share no other base class)
        return False
    return output.fits(output.extract(value), 2)
