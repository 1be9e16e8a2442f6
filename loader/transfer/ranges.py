"""A download with parallel range requests, which are resumed after errors; the whole file is verified.

Workers fetch spans of pieces, while the main thread reads the pieces from disk in order and computes the digest. The
main thread does not use the network, so it can always handle a signal.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from crc32c import crc32c

from loader.checksums import BLOCK_SIZE, Digest, Hasher
from loader.errors import IntegrityError, translate_os_errors
from loader.progress import Progress
from loader.transfer.journal import PIECE_SIZE, Journal
from loader.transfer.retry import Backoff, TransientError
from loader.watchdog import Deadline

_PIECES_PER_REQUEST = 8
_BYTES_PER_WORKER = 64 << 20
_MOST_WORKERS = min(4, os.cpu_count() or 1)

Read = Callable[[int], bytes]
OpenRange = Callable[[int, int], AbstractContextManager[Read]]


class RangeDownload:
    """The download of the file of a journal.

    Args:
        open_range: function that requests the bytes from a start up to, not including, an end; raises `TransientError`
            for failures to retry.
        journal: the journal of the download.
        workers: the number of parallel requests.
        deadline: the end of all retries.
        progress: the reporter of the load.
    """

    def __init__(
        self, open_range: OpenRange, journal: Journal, workers: int, deadline: Deadline, progress: Progress
    ) -> None:
        self._open_range = open_range
        self._journal = journal
        self._workers = workers
        self._deadline = deadline
        self._progress = progress
        self._spans: deque[range] = deque()
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._ended = False

    def run(self, pieces_per_request: int = _PIECES_PER_REQUEST) -> Digest:
        """Fetch the missing pieces, and return the digest of the file.

        Args:
            pieces_per_request: the maximum number of pieces per request.

        Raises:
            LoadError: the file cannot be fetched, or its checksums are repeatedly wrong.
        """
        found = self._journal.found
        backoff = Backoff(f"cannot verify {found.uri}", self._deadline, self._progress)
        with translate_os_errors(f"cannot write to {self._journal.target}"):
            self._journal.open()
            if here := sum(len(self._journal.span(piece)) for piece in self._journal.pieces):
                self._progress.resume(here)
            try:
                while different := (digest := self._pass(pieces_per_request)).mismatches(found.checksums):
                    self._progress.advance(-digest.size)
                    self._journal.pieces.clear()
                    self._journal.rewrite()
                    [name, *_] = different
                    reason = (
                        f"the bytes have the {name} {digest.checksums[name]}, but the source says "
                        f"{found.checksums[name]}"
                    )
                    backoff.pause(TransientError("checksum-mismatch", reason, kind=IntegrityError))
            finally:
                self._ended = True
            return digest

    def _pass(self, pieces_per_request: int) -> Digest:
        self._spans = deque(_spans(self._journal.missing(), pieces_per_request))
        for number in range(min(self._workers, len(self._spans))):
            threading.Thread(target=self._work, name=f"download-{number}", daemon=True).start()
        hasher = Hasher(self._journal.found.checksums)
        with self._journal.target.open("rb", buffering=0) as file:
            for piece in range(self._journal.count):
                self._wait_for(piece)
                crc = 0
                span = self._journal.span(piece)
                while file.tell() < span.stop and (block := file.read(min(BLOCK_SIZE, span.stop - file.tell()))):
                    hasher.update(block)
                    crc = crc32c(block, crc)
                # Start writing the piece to disk now, so that the final fsync is short.
                os.posix_fadvise(file.fileno(), span.start, len(span), os.POSIX_FADV_DONTNEED)
                if crc != self._journal.pieces[piece]:
                    raise IntegrityError(
                        "disk-faulty",
                        f"{self._journal.target} does not contain the data that was written to it: check the disk",
                    )
        return hasher.digest()

    def _wait_for(self, piece: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure or piece in self._journal.pieces)
            if self._failure:
                raise self._failure

    def _work(self) -> None:
        try:
            # Each worker has its own descriptor: a shared one could be closed and reused while a late worker writes.
            with (
                translate_os_errors(f"cannot write to {self._journal.target}"),
                self._journal.target.open("r+b", buffering=0) as file,
            ):
                while not self._ended:
                    try:
                        span = self._spans.popleft()
                    except IndexError:
                        return
                    self._fetch(span, file.fileno())
        except Exception as error:  # noqa: BLE001 (the main thread raises it)
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify()

    def _fetch(self, span: range, descriptor: int) -> None:
        position, end = self._journal.span(span[0]).start, self._journal.span(span[-1]).stop
        backoff = Backoff(f"cannot read {self._journal.found.uri}", self._deadline, self._progress)
        crc = 0
        while position < end and not self._ended:
            try:
                with self._open_range(position, end) as read:
                    while position < end and not self._ended:
                        piece = position // PIECE_SIZE
                        data = read(min(BLOCK_SIZE, self._journal.span(piece).stop - position))
                        if not data:
                            raise TransientError("connection-failed", f"the stream ended at byte {position} of {end}")  # noqa: TRY301
                        _write(descriptor, data, position)
                        crc = crc32c(data, crc)
                        position += len(data)
                        backoff.reset()
                        self._progress.advance(len(data))
                        if position == self._journal.span(piece).stop:
                            self._note(piece, crc)
                            crc = 0
            except TransientError as error:
                backoff.pause(error)

    def _note(self, piece: int, crc: int) -> None:
        with self._changed:
            self._journal.add(piece, crc)
            self._changed.notify()


def workers_for(size: int) -> int:
    """Return the default number of parallel requests for a file."""
    return max(1, min(_MOST_WORKERS, -(-size // _BYTES_PER_WORKER)))


def _write(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _spans(pieces: list[int], most: int) -> list[range]:
    """Return the pieces as contiguous ranges with at most `most` pieces each."""
    spans: list[range] = []
    for piece in pieces:
        if spans and spans[-1].stop == piece and len(spans[-1]) < most:
            spans[-1] = range(spans[-1].start, piece + 1)
        else:
            spans.append(range(piece, piece + 1))
    return spans
