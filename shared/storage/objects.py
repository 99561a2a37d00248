"""Object storage in an S3 bucket, with time limits and the domain's errors."""

import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError

from shared.errors import CorruptData, NotFound, Unavailable
from shared.files import open_atomic
from shared.settings import ObjectStoreSettings

_CHUNK_BYTES = 2**20
_PART_BYTES = 16 * 2**20
_SLOWEST_BYTES_PER_S = 2**20
_CONNECTIONS = 32


@dataclass(frozen=True)
class StoredObject:
    """Metadata of an object.

    Attributes:
        key: Its key in the bucket.
        size: In bytes.
        modified_at: Time of the last write, by the clock of the store.
    """

    key: str
    size: int
    modified_at: datetime


def image_key(sha256: str) -> str:
    """Return the key of an image from the SHA-256 of its bytes (64 hexadecimal digits)."""
    return f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}"


class _RetryUnlessTimedOut(urllib3.Retry):
    """Retries dropped connections and 5xx responses, but not timeouts."""

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        error = kwargs.get("error")
        if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            raise error
        return super().increment(*args, **kwargs)


class ObjectStore:
    """One bucket of an S3 server; threads may share it, processes must not.

    Every method is synchronous. Within a bounded time it raises Unavailable when the server is
    down, frozen or too slow, refuses the credentials, or does not have the bucket. A write is
    atomic.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self.bucket = settings.s3_bucket
        self._endpoint = settings.s3_endpoint
        self._timeout_s = settings.s3_timeout_s
        http = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(total=settings.s3_timeout_s),
            retries=_RetryUnlessTimedOut(
                total=2, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504)
            ),
        )
        self._client = Minio(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=settings.s3_secure,
            http_client=http,
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

    def put(self, key: str, data: bytes) -> None:
        """Write an object; an existing one is replaced."""
        with self._errors(key):
            self._client.put_object(self.bucket, key, io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file, with only parts of the file in memory at a time."""
        with self._errors(key), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._client.put_object(self.bucket, key, file, size, part_size=_PART_BYTES)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """Read an object.

        Raises:
            NotFound: If there is no such object.
            CorruptData: If the content has another hash than ``sha256``.
        """
        data = b"".join(self._chunks(key))
        if sha256 is not None:
            _check_hash(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def get_file(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Read an object into a file, which is created only when it is complete.

        Raises:
            NotFound: If there is no such object.
            CorruptData: If the content has another hash than ``sha256``.
        """
        digest = hashlib.sha256()
        with open_atomic(path) as file:
            for chunk in self._chunks(key):
                digest.update(chunk)
                file.write(chunk)
            if sha256 is not None:
                _check_hash(key, digest.hexdigest(), sha256)

    def stat(self, key: str) -> StoredObject:
        """Return the metadata of an object.

        Raises:
            NotFound: If there is no such object.
        """
        with self._errors(key):
            return _stored(self._client.stat_object(self.bucket, key))

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose keys start with ``prefix``, ordered by key."""
        with self._errors():
            for found in self._client.list_objects(self.bucket, prefix, recursive=True):
                yield _stored(found)

    def remove(self, key: str) -> None:
        """Remove an object; it is no error if it does not exist."""
        with self._errors(key):
            self._client.remove_object(self.bucket, key)

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._errors(key):
            response = self._client.get_object(self.bucket, key)
            try:
                size = int(response.headers.get("Content-Length", 0))
                deadline = time.monotonic() + self._timeout_s + size / _SLOWEST_BYTES_PER_S
                while chunk := response.read1(_CHUNK_BYTES):
                    yield chunk
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"{self._where(key)} arrives slower than "
                            f"{_SLOWEST_BYTES_PER_S} bytes per second; try again later"
                        )
            finally:
                response.close()
                response.release_conn()

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            self._raise_s3(error, key)
        except (MinioException, HTTPError) as error:
            raise Unavailable(f"{self._where(key)} cannot be reached: {error}") from error

    def _raise_s3(self, error: S3Error, key: str) -> NoReturn:
        if error.code == "NoSuchKey":
            raise NotFound(f"{self._where(key)} does not exist") from error
        if error.code == "NoSuchBucket":
            raise Unavailable(f"{self._where()} does not exist; create it") from error
        raise Unavailable(f"{self._where(key)} failed: {error.code} {error.message}") from error

    def _where(self, key: str = "") -> str:
        return f"object store {self._endpoint}, {self.bucket}/{key}"


def _stored(found: Any) -> StoredObject:
    return StoredObject(found.object_name, found.size, found.last_modified)


def _check_hash(key: str, found: str, expected: str) -> None:
    if found != expected:
        raise CorruptData(f"object {key} has SHA-256 {found}, not {expected}")
