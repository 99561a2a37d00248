"""Object storage in an S3 bucket, with time limits and the domain's errors."""

import hashlib
import io
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from minio import Minio
from minio.error import MinioException, S3Error
from minio.helpers import MIN_PART_SIZE
from urllib3.exceptions import HTTPError

from shared.errors import AccessRefused, CorruptData, MagFaceError, NotFound, Unavailable
from shared.files import open_atomic
from shared.settings import ObjectStoreSettings
from shared.storage.s3_http import NotS3Error, S3Http

IMAGES_PREFIX: Final = "images/"
_CHUNK_BYTES = 2**20
_PART_BYTES = 16 * 2**20
_SLOWEST_BYTES_PER_S = 2**20
# How often an object is removed that is there again.
_REMOVALS: Final = 5
# The ETag of an object that was written in one request is the MD5 of its content, unless the store
# encrypts it with a key of its own.
_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION: Final = "x-amz-server-side-encryption"
_LONGEST_REASON: Final = 300
_REFUSED: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


@dataclass(frozen=True)
class StoredObject:
    """Metadata of an object.

    Attributes:
        key: Its key in the bucket.
        size: In bytes.
        modified_at: Time of the last write, by the clock of the store.
        md5: Of the content, in hex; None if the store does not tell it, as in a listing.
    """

    key: str
    size: int
    modified_at: datetime
    md5: str | None = None


def image_key(sha256: str) -> str:
    """Return the key of an image from the SHA-256 of its bytes (64 hexadecimal digits)."""
    return f"{IMAGES_PREFIX}{sha256[:2]}/{sha256[2:4]}/{sha256}"


@dataclass(frozen=True)
class _Received:
    """What a read of an object gave.

    Attributes:
        sha256: Of the content, in hex.
        size: Of the content, in bytes.
        as_stored: Whether the content has the MD5 that the store gives; None if it gives none.
    """

    sha256: str
    size: int
    as_stored: bool | None

    def is_right(self, sha256: str | None) -> bool:
        return self.as_stored is not False if sha256 is None else self.sha256 == sha256


class ObjectStore:
    """One bucket of an S3 server; threads may share it, processes must not.

    Every method is synchronous. Within a bounded time it raises Unavailable when the server is
    down, frozen, full or too slow, refuses the credentials, does not have the bucket, or when
    what answers in its place is no S3 server. No other error of the client library leaves this
    class. A write is atomic, and was seen in the store when it returns.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self.bucket = settings.s3_bucket
        self._endpoint = settings.s3_endpoint
        self._timeout_s = settings.s3_timeout_s
        self._http = S3Http(settings.s3_timeout_s)
        self._client = Minio(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=settings.s3_secure,
            http_client=self._http,
        )

    def ensure_bucket(self) -> None:
        """Create the bucket if it does not exist."""
        with self._errors():
            if self._client.bucket_exists(self.bucket):
                return
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def read_clock(self) -> datetime:
        """Read the clock of the store, which also gives `StoredObject.modified_at`.

        Returns:
            The time, rounded up to a whole second.
        """
        with self._errors():
            self._client.bucket_exists(self.bucket)
            try:
                now = parsedate_to_datetime(self._http.date)
            except ValueError as error:
                raise NotS3Error("an answer without a date") from error
        return now + timedelta(seconds=1)

    def put(self, key: str, data: bytes) -> None:
        """Write an object; an existing one is replaced.

        It is written in one request: parts of an object that are left by a process that was killed
        are not listed, and would stay.
        """
        part_size = max(len(data), MIN_PART_SIZE)
        with self._errors(key):
            written = self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), part_size=part_size
            )
        if written.etag != _md5(data).hexdigest():
            self._check_written(key, len(data), written.etag)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file, with only parts of the file in memory at a time."""
        with path.open("rb") as file, self._errors(key):
            size = os.fstat(file.fileno()).st_size
            written = self._client.put_object(self.bucket, key, file, size, part_size=_PART_BYTES)
        self._check_written(key, size, written.etag)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """Read an object.

        Raises:
            NotFound: If there is no such object.
            CorruptData: If the content has another hash than ``sha256``.
        """
        content = io.BytesIO()
        self._read(key, content, sha256)
        return content.getvalue()

    def get_file(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Read an object into a file, which is created only when it is complete.

        Raises:
            NotFound: If there is no such object.
            CorruptData: If the content has another hash than ``sha256``.
        """
        with open_atomic(path) as file:
            self._read(key, file, sha256)

    def stat(self, key: str) -> StoredObject:
        """Return the metadata of an object.

        Raises:
            NotFound: If there is no such object.
        """
        with self._errors(key):
            found = self._client.stat_object(self.bucket, key)
            if not found.etag:
                raise NotS3Error("an answer without an ETag")
            return _stored(found, md5=_md5_of(found.metadata))

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def has_content(self, key: str, data: bytes) -> bool:
        """Say whether an object exists with this content, by its size and, if known, its MD5."""
        try:
            found = self.stat(key)
        except NotFound:
            return False
        return found.size == len(data) and found.md5 in (None, _md5(data).hexdigest())

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose keys start with ``prefix``, ordered by key."""
        listing = self._client.list_objects(self.bucket, prefix, recursive=True)
        while found := self._next_listed(listing, prefix):
            yield found

    def remove(self, key: str) -> None:
        """Remove an object; it is no error if it does not exist.

        Writes of the object that are under way are removed too.
        """
        deadline = time.monotonic() + self._timeout_s
        for _ in range(_REMOVALS):
            with self._errors(key):
                self._client.remove_object(self.bucket, key)
            if not self.exists(key):
                return
            if time.monotonic() > deadline:
                break
        raise Unavailable(
            "an object is still in the object store after its removal; remove it again",
            detail=self._where(key),
        )

    def _next_listed(self, listing: Iterator[Any], prefix: str) -> StoredObject | None:
        with self._errors():
            found = next(listing, None)
            if found is None:
                return None
            if not (found.object_name or "").startswith(prefix):
                raise NotS3Error(f"a listing of {prefix!r} that names {found.object_name!r}")
            return _stored(found)

    def _check_written(self, key: str, size: int, etag: str | None) -> None:
        """Look whether an object is in the store as it was written.

        Args:
            key: Of the object.
            size: In bytes.
            etag: That the answer to the write gave.

        Raises:
            Unavailable: If it is not there, or there is another one.
        """
        try:
            with self._errors(key):
                found = self._client.stat_object(self.bucket, key)
        except NotFound as error:
            raise Unavailable(
                "the object store acknowledged a write and does not have the object; send it again",
                detail=f"{self._where(key)}; check what answers at this address",
            ) from error
        if not etag or (found.etag, found.size) != (etag, size):
            raise Unavailable(
                "the object store has another object than was written; send it again",
                detail=f"{self._where(key)} has {found.size} bytes and ETag {found.etag!r} after a"
                f" write of {size} bytes with ETag {etag!r}; check what answers at this address",
            )

    def _read(self, key: str, sink: BinaryIO, sha256: str | None) -> None:
        """Read an object into an empty file.

        An answer that was damaged on its way is told from a damaged object by a second read,
        which gives the same bytes again only for a damaged object.
        """
        received = self._receive(key, sink)
        if received.is_right(sha256):
            return
        if not received.as_stored:
            sink.seek(0)
            sink.truncate()
            again = self._receive(key, sink)
            if again.is_right(sha256):
                return
            if again != received or self.stat(key).size != received.size:
                raise Unavailable(
                    "an object arrives damaged from the object store; read it again",
                    detail=self._where(key),
                )
        wanted = "the content that the store has the MD5 of" if sha256 is None else sha256
        raise CorruptData(
            f"object {key} has SHA-256 {received.sha256}, not {wanted}", detail=self._where(key)
        )

    def _receive(self, key: str, sink: BinaryIO) -> _Received:
        digest, md5 = hashlib.sha256(), _md5()
        with self._errors(key):
            response = self._client.get_object(self.bucket, key)
        try:
            with self._errors(key, answered=True):
                size, stored_md5 = _size_and_md5(response.headers)
            deadline = time.monotonic() + self._timeout_s + size / _SLOWEST_BYTES_PER_S
            received = 0
            while chunk := self._next_chunk(key, response, deadline):
                received += len(chunk)
                digest.update(chunk)
                md5.update(chunk)
                sink.write(chunk)
            if received != size:
                raise Unavailable(
                    f"an object arrives with {received} of {size} bytes from the object store;"
                    " read it again",
                    detail=self._where(key),
                )
        finally:
            response.close()
            response.release_conn()
        as_stored = md5.hexdigest() == stored_md5 if stored_md5 else None
        return _Received(digest.hexdigest(), size, as_stored)

    def _next_chunk(self, key: str, response: Any, deadline: float) -> bytes:
        with self._errors(key, answered=True):
            chunk: bytes = response.read1(_CHUNK_BYTES)
        if chunk and time.monotonic() > deadline:
            raise Unavailable(
                "an object arrives from the object store slower than"
                f" {_SLOWEST_BYTES_PER_S} bytes per second; try again later",
                detail=self._where(key),
            )
        return chunk

    @contextmanager
    def _errors(self, key: str = "", *, answered: bool = False) -> Iterator[None]:
        """Raise the domain's error in place of one of the client library.

        Any error that comes after an answer is a fault of the answer, since the library does not
        expect answers that are not S3's. Errors before that are faults of the program.

        Args:
            key: Of the object.
            answered: Whether the answer came before the block.
        """
        answers = -1 if answered else self._http.answers
        try:
            yield
        except MagFaceError:
            raise
        except S3Error as error:
            self._raise_s3(error, key)
        except (MinioException, HTTPError) as error:
            raise Unavailable(
                "the object store cannot be reached",
                detail=f"{self._where(key)}: {_short(error)}",
            ) from error
        except Exception as error:
            if self._http.answers == answers:
                raise
            raise Unavailable(
                "the object store gave an answer that is not S3's",
                detail=f"{self._where(key)}: {_short(error)}; check what answers at this address",
            ) from error

    def _raise_s3(self, error: S3Error, key: str) -> NoReturn:
        if error.code == "NoSuchKey":
            raise NotFound(
                f"the object store has no object {key}", detail=self._where(key)
            ) from error
        if error.code == "NoSuchBucket":
            raise Unavailable(
                "the bucket of the object store does not exist; create it", detail=self._where()
            ) from error
        # The client keeps the region that the store once named, which may have been damaged.
        self._client._region_map.pop(self.bucket, None)
        kind = AccessRefused if error.code in _REFUSED else Unavailable
        raise kind(
            "the object store refuses a request",
            detail=f"{self._where(key)}: {error.code} {error.message}",
        ) from error

    def _where(self, key: str = "") -> str:
        return f"object store {self._endpoint}, {self.bucket}/{key}"


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _stored(found: Any, md5: str | None = None) -> StoredObject:
    if found.size is None or found.size < 0 or found.last_modified is None:
        raise NotS3Error("an answer without the size or the time of an object")
    return StoredObject(found.object_name, found.size, found.last_modified, md5)


def _size_and_md5(headers: Any) -> tuple[int, str | None]:
    """Read the size of an object that is sent, and its MD5 if the ETag is one.

    Raises:
        NotS3Error: If the answer lacks its size or its ETag.
    """
    size = headers.get("Content-Length")
    if size is None or not headers.get("ETag"):
        raise NotS3Error("an answer without a Content-Length or an ETag")
    return int(size), _md5_of(headers)


def _md5_of(headers: Any) -> str | None:
    etag = headers.get("ETag", "").strip('"')
    plain = headers.get(_ENCRYPTION, "AES256") == "AES256" and _MD5_ETAG.fullmatch(etag)
    return etag if plain else None


def _short(error: Exception) -> str:
    """Give the message of an error, which may hold a whole page, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"
