"""What can go wrong in a load: each error's message is the one line that the operator reads."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class LoadError(Exception):
    """Any other failure; the message says which.

    Args:
        code: short and stable, for alerts and searches in logs; docs/operations.md has a row for each.
        message: one sentence for the operator.

    Attributes:
        exit_code: what the process ends with.
        resumable: whether the next run can use what this one has fetched.
    """

    exit_code = 1
    resumable = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UsageError(LoadError):
    """The settings do not say what to load, or say it wrongly."""

    exit_code = 2


class NotFoundError(LoadError):
    """The source has nothing under the name that was asked for."""

    exit_code = 3


class PermissionDeniedError(LoadError):
    """Permission denied: cannot read the source or write the target."""

    exit_code = 4


class IntegrityError(LoadError):
    """The bytes are not those that were expected."""

    exit_code = 5


class DeadlineError(LoadError):
    """The load did not end within LOAD_TIMEOUT_SECONDS."""

    exit_code = 6
    resumable = True


class NoSpaceError(LoadError):
    """The target's file system is full."""

    exit_code = 7


class UnreachableError(LoadError):
    """The source does not answer, or answers with failures only."""

    exit_code = 8
    resumable = True


class TerminatedError(LoadError):
    """The load was told to stop."""

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
    """Raise an `OSError` of the block as the `LoadError` that fits it, its message beginning with the action.

    Args:
        action: what is done in the block: "cannot read ...".
        missing: what it is when there is no such file or directory.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing("file-missing", f"{action}: {error.strerror}") from error
    except OSError as error:
        kind, code = _BY_ERRNO.get(error.errno or 0, _OTHER)
        raise kind(code, f"{action}: {error.strerror or error}") from error
