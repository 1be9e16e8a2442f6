"""How an ONNX file is called, found out from the file alone and by calling it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.graph import Graph
from model_server.model.inputs import Inputs, read_inputs, try_rows
from model_server.model.outputs import CLASS_NAMES_PROPERTY, Output, OutputsOfFile, find_output
from model_server.model.rows import repeat
from model_server.model.tasks import OUTPUT_PROPERTY, ModelOutput


@dataclass(frozen=True)
class Signature:
    """How to call a model.

    Attributes:
        inputs: how it is given rows.
        output: which output answers, and how.
        outputs: all outputs as the file declares them, each with `name`, `type` and `shape`.
        properties: the metadata properties of the file.
        producer: what wrote the file, as recorded in it.
    """

    inputs: Inputs
    output: Output
    outputs: Sequence[ort.NodeArg]
    properties: Mapping[str, str]
    producer: str


def read_signature(
    session: ort.InferenceSession, graph: Graph, labels: Sequence[str] | None, choice: ModelOutput | None
) -> Signature:
    """Return how to call the model, having called it.

    Args:
        session: a session on the file.
        graph: the nodes of the file.
        labels: name of each class by the label file; None without one.
        choice: which output answers, and what it holds; None takes it from the file.

    Raises:
        StartError: the file cannot be served like that, or has another number of classes than there are labels. The
            reason continues the sentence after the file's name: "has 2 inputs ...".
    """
    meta = session.get_modelmeta()
    properties = meta.custom_metadata_map
    inputs = read_inputs(session, graph)
    outputs = OutputsOfFile(
        declared=session.get_outputs(),
        free=_free(session),
        trials=list(try_rows(session, inputs)),
        batch=inputs.batch or 1,
        graph=graph,
        class_names=properties.get(CLASS_NAMES_PROPERTY),
        producer=meta.producer_name,
    )
    output = find_output(outputs, labels, choice or _choice_of(properties))
    if not inputs.batch and not _takes_two(session, inputs, output):
        inputs = replace(inputs, batch=1)
    return Signature(inputs, output, outputs.declared, properties, meta.producer_name)


def _choice_of(properties: Mapping[str, str]) -> ModelOutput | None:
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


def _free(session: ort.InferenceSession) -> frozenset[str]:
    """Return the names of the dimensions beyond the batch that the inputs leave free."""
    dimensions = [length for found in session.get_inputs() for length in (found.shape or ())[1:]]
    batches = {length for found in session.get_inputs() for length in (found.shape or ())[:1]}
    return frozenset(length for length in dimensions if isinstance(length, str) and length not in batches)


def _takes_two(session: ort.InferenceSession, inputs: Inputs, output: Output) -> bool:
    """Return whether the model keeps its word on a free batch dimension; some are exported with a fixed one inside."""
    try:
        [value] = session.run([output.name], inputs.feed(repeat(output.sample, 2)))
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors have no base in common)
        return False
    return output.fits(output.read(value), 2)
