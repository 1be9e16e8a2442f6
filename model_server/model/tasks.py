"""The task of a model, and the setting that says what an output holds."""

from enum import StrEnum
from typing import NamedTuple, Self

OUTPUT_PROPERTY = "model_output"


class Task(StrEnum):
    """The kind of predictions that a model makes."""

    CLASSES = "classes"
    MULTILABEL = "multilabel"
    VALUES = "values"


class OutputKind(StrEnum):
    """What the numbers of an output are."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"
    LOG_PROBABILITIES = "log_probabilities"
    SIGMOID = "sigmoid"
    SIGMOID_LOGITS = "sigmoid_logits"
    VALUES = "values"


class ModelOutput(NamedTuple):
    """Which output is served, and what it holds; an empty name stands for the only output that it can be."""

    kind: OutputKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the choice that `kind` or `kind:name` stands for.

        Raises:
            ValueError: the kind is unknown; the message continues the sentence after the setting's name.
        """
        kind, _, name = text.partition(":")
        try:
            return cls(OutputKind(kind), name)
        except ValueError:
            raise ValueError(
                f"is {text[:80]!r}; expected one of {', '.join(OutputKind)}, and after a colon the name of an output "
                "if several could be meant"
            ) from None

    def __str__(self) -> str:
        """Return the text that `parse` takes."""
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)
