"""The task of a model, and the setting for the kind of its output."""

from enum import StrEnum
from typing import NamedTuple, Self

OUTPUT_PROPERTY = "model_output"


class Task(StrEnum):
    """The kind of predictions that a model makes."""

    CLASSES = "classes"
    MULTILABEL = "multilabel"
    VALUES = "values"


class OutputKind(StrEnum):
    """The kind of the numbers in an output."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"
    LOG_PROBABILITIES = "log_probabilities"
    SIGMOID = "sigmoid"
    SIGMOID_LOGITS = "sigmoid_logits"
    VALUES = "values"


class ModelOutput(NamedTuple):
    """The output to serve and its kind; an empty name means the only output that fits the kind."""

    kind: OutputKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the choice for a text of the form `kind` or `kind:name`.

        Raises:
            ValueError: the kind is unknown; the message continues a sentence that starts with the setting's name.
        """
        kind, _, name = text.partition(":")
        try:
            return cls(OutputKind(kind), name)
        except ValueError:
            raise ValueError(
                f"is {text[:80]!r}; expected one of {', '.join(OutputKind)}, followed by a colon and the name of an "
                "output if several outputs fit"
            ) from None

    def __str__(self) -> str:
        """Return the text that `parse` takes."""
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)
