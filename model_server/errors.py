"""The error that stops the service before it serves."""


class StartError(Exception):
    """The service cannot start: the message is one line that says what was found and what was expected.

    Attributes:
        code: a short name for the error, for logs and the runbook.
        reason: the message, without what to do.
        change: what to do about it; empty where the reason leaves no doubt.
    """

    def __init__(self, code: str, reason: str, change: str = "") -> None:
        super().__init__(f"{reason}: {change}" if change else reason)
        self.code = code
        self.reason = reason
        self.change = change
