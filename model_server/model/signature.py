"""How an ONNX file is called, found out from the file alone and by calling it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnxruntime as ort

from model_server.model.graph import Graph
from model_server.model.inputs import Inputs, read_inputs, try_rows
from model_server.model.outputs import Output, are_probabilities, find_output
from model_server.model.rows import repeat


@dataclass(frozen=True)
class Signature:
    """How to call a classifier.

    Attributes:
        inputs: how it is given rows.
        output: where its class probabilities are.
        outputs: all outputs as the file declares them, each with `name`, `type` and `shape`.
        properties: the metadata properties of the file.
        producer: what wrote the file, by its own account.
    """

    inputs: Inputs
    output: Output
    outputs: Sequence[ort.NodeArg]
    properties: Mapping[str, str]
    producer: str


def read_signature(session: ort.InferenceSession, graph: Graph, labels: Sequence[str] | None) -> Signature:
    """Return how to call the classifier, having called it.

    Args:
        session: a session on the file.
        graph: the nodes of the file.
        labels: name of each class; None takes any number of classes.

    Raises:
        StartError: the file is no classifier, or has not as many classes as there are labels. The reason goes on
            from the file's name: "has 2 inputs ...".
    """
    inputs = read_inputs(session, graph)
    trials = list(try_rows(session, inputs))
    outputs = session.get_outputs()
    output = find_output([found.name for found in outputs], trials, labels, inputs.batch or 1)
    if not inputs.batch and not _takes_two(session, inputs, output):
        inputs = replace(inputs, batch=1)
    meta = session.get_modelmeta()
    return Signature(inputs, output, outputs, meta.custom_metadata_map, meta.producer_name)


def _takes_two(session: ort.InferenceSession, inputs: Inputs, output: Output) -> bool:
    """Return whether the model keeps its word on a free batch dimension; some are exported with a fixed one inside."""
    try:
        [value] = session.run([output.name], inputs.feed(repeat(output.sample, 2)))
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors have no base in common)
        return False
    return are_probabilities(output.to_matrix(value), 2)
