"""HTTP client of the object store: bounded retries, and a check that the answers are S3's."""

import http.client
import threading
from typing import Any, Final, Self
from xml.etree import ElementTree

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError

_CONNECTIONS: Final = 32
_SUCCESS: Final = frozenset({200, 204, 206})
_LISTING: Final = "ListBucketResult"
_UPLOADS: Final = frozenset({"InitiateMultipartUploadResult", "CompleteMultipartUploadResult"})


class NotS3Error(HTTPError):
    """An answer that no S3 server gives, for instance a web page of a proxy."""


class _RetryUnlessTimedOut(urllib3.Retry):
    """Retries dropped connections and 5xx responses, but not timeouts."""

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        error = kwargs.get("error")
        if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            raise error
        return super().increment(*args, **kwargs)


class S3Http(urllib3.PoolManager):
    """Connections to an S3 server.

    Whatever goes wrong with a request is raised as an ``HTTPError``.

    Args:
        timeout_s: Longest wait for one request, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(total=timeout_s),
            retries=_RetryUnlessTimedOut(
                total=2,
                backoff_factor=0.1,
                status_forcelist=(500, 502, 503, 504),
                # The server could choose any wait.
                respect_retry_after_header=False,
            ),
        )
        self._of_thread = threading.local()

    @property
    def answers(self) -> int:
        """Number of answers that this thread has had."""
        return getattr(self._of_thread, "answers", 0)

    @property
    def date(self) -> str:
        """The Date header of the last answer that this thread has had; empty without one."""
        return getattr(self._of_thread, "date", "")

    def urlopen(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request as `urllib3.PoolManager.urlopen` does.

        Raises:
            HTTPError: If there is no answer, or one that is not S3's.
        """
        try:
            response = super().urlopen(method, url, *args, **kwargs)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, HTTPError):
                raise
            raise HTTPError(f"{type(error).__name__}: {error}") from error
        self._of_thread.answers = self.answers + 1
        self._of_thread.date = response.headers.get("Date", "")
        try:
            _check_answer(method, url, response, read=kwargs.get("preload_content", True))
        except NotS3Error:
            response.close()
            response.release_conn()
            raise
        return response


def _check_answer(method: str, url: str, response: Any, *, read: bool) -> None:
    """Refuse an answer that is not S3's.

    Args:
        method: Of the request.
        url: Of the request.
        response: The answer.
        read: Whether its body was read.

    Raises:
        NotS3Error: If it is a web page, or its body is not the document that was asked for.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in {"text/html", "application/xhtml+xml"} and not response.headers.get(
        "x-amz-request-id"
    ):
        raise NotS3Error(
            f"a web page (status {response.status}) in place of an S3 answer; check what answers"
            " at this address"
        )
    # Objects are read piece by piece, later.
    if read and response.status in _SUCCESS and method in {"GET", "POST"}:
        name = _document(response.data)
        if method == "POST":
            right = name in _UPLOADS
        elif "list-type=" in url:
            right = name == _LISTING
        else:
            # The location of the bucket, for which servers have several names.
            right = name.lower() != "html"
        if not right:
            raise NotS3Error(f"a document <{name}> in place of an S3 answer")


def _document(body: bytes) -> str:
    try:
        return ElementTree.fromstring(body).tag.rpartition("}")[2]  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise NotS3Error(f"a document that is damaged or not XML: {error}") from error
