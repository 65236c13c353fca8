"""Faults that a test orders beforehand; each happens as often as it was ordered and then never again."""

from __future__ import annotations

from collections import defaultdict, deque
from threading import Lock

from .storage import HubError


class Faults:
    """What goes wrong next, one queue of outcomes for each kind of request; 0 stands for a good one.

    Example:
        >>> faults = Faults()
        >>> faults.upload_error(status=500, after=1)
        >>> [faults.take("upload") for _ in range(3)]
        [0, 500, 0]
    """

    def __init__(self) -> None:
        self._outcomes: defaultdict[str, deque[int]] = defaultdict(deque)
        self._lock = Lock()

    def upload_error(self, status: int = 500, after: int = 0, times: int = 1) -> None:
        """Refuse the content of a large file, after `after` files or parts of files went well.

        The client tries again after 1, 2, 4, 8 and 8 seconds where the status is 408, 429, 500, 502, 503 or 504, and
        gives up at once on any other, such as 403, which is what an upload address past its time answers.
        """
        self._order("upload", status, after, times)

    def commit_error(self, status: int = 500, times: int = 1) -> None:
        """Refuse a commit after all content has arrived; the client does not try again."""
        self._order("commit", status, 0, times)

    def drop_download(self, after_bytes: int, times: int = 1) -> None:
        """Close the connection after that many bytes of the next file that is longer.

        The client writes pieces of 10 MiB to disk, and asks for the rest alone only after a whole piece arrived.
        """
        self._order("download", after_bytes, 0, times)

    def stale_revision(self, times: int = 1) -> None:
        """Answer for a branch or tag with the commit before the one it names."""
        self._order("revision", 1, 0, times)

    def take(self, kind: str) -> int:
        """What happens to the request at hand."""
        with self._lock:
            return self._outcomes[kind].popleft() if self._outcomes[kind] else 0

    def cut(self, length: int) -> int | None:
        """After how many bytes a body of this length breaks off."""
        with self._lock:
            planned = self._outcomes["download"]
            return planned.popleft() if planned and planned[0] < length else None

    def refuse(self, kind: str) -> None:
        """Raise what was ordered for the request at hand, if anything was."""
        status = self.take(kind)
        if status:
            raise HubError(status, f"Ordered by the test: {kind} refused")

    def _order(self, kind: str, outcome: int, after: int, times: int) -> None:
        with self._lock:
            self._outcomes[kind].extend([0] * after + [outcome] * times)
