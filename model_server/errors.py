"""The error that stops the service at start."""


class StartError(Exception):
    """The service cannot start. The message is one line that says what was found and what was expected.

    Attributes:
        code: a short name for the error, for logs and the runbook.
        reason: the message without the fix.
        fix: empty if the reason makes it obvious.
    """

    def __init__(self, code: str, reason: str, fix: str = "") -> None:
        super().__init__(f"{reason}: {fix}" if fix else reason)
        self.code = code
        self.reason = reason
        self.fix = fix
