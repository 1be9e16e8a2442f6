"""Errors of a load, each with an exit code and a one-line message for the operator."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class LoadError(Exception):
    """Base class of all load errors; raised itself for failures without their own exit code.

    Args:
        code: stable identifier for alerts and log searches; docs/operations.md has a row for each.
        message: one sentence for the operator.

    Attributes:
        exit_code: the exit code of the process.
        resumable: whether the next run can resume the download.
    """

    exit_code = 1
    resumable = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UsageError(LoadError):
    """The settings are incomplete or invalid."""

    exit_code = 2


class NotFoundError(LoadError):
    """The source does not have the requested file or version."""

    exit_code = 3


class PermissionDeniedError(LoadError):
    """Permission denied: cannot read the source or write the target."""

    exit_code = 4


class IntegrityError(LoadError):
    """A file is not the expected one, or is invalid."""

    exit_code = 5


class DeadlineError(LoadError):
    """The load did not finish within LOAD_TIMEOUT_SECONDS."""

    exit_code = 6
    resumable = True


class NoSpaceError(LoadError):
    """The target's file system is full."""

    exit_code = 7


class UnreachableError(LoadError):
    """The source does not answer, or answers with errors only."""

    exit_code = 8
    resumable = True


class TerminatedError(LoadError):
    """The load received SIGTERM or SIGINT."""

    exit_code = 9
    resumable = True


class ReplacedError(IntegrityError):
    """A file was overwritten at its source while it was loaded."""

    resumable = True


_DENIED = (PermissionDeniedError, "file-denied")
_FULL = (NoSpaceError, "disk-full")
_BY_ERRNO: dict[int, tuple[type[LoadError], str]] = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}
_OTHER = (LoadError, "file-failed")


@contextmanager
def translate_os_errors(action: str, *, missing: type[LoadError] = LoadError) -> Iterator[None]:
    """Translate an `OSError` raised in the block into the matching `LoadError`.

    Args:
        action: the start of the message, such as "cannot read ...".
        missing: the error to raise if the file or directory does not exist.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing("file-missing", f"{action}: {error.strerror}") from error
    except OSError as error:
        kind, code = _BY_ERRNO.get(error.errno or 0, _OTHER)
        raise kind(code, f"{action}: {error.strerror or error}") from error
