"""Uploaded checkpoints in the object store."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from services.trainer.worker.specs import upload_key
from shared.errors import InvalidInput
from shared.files import room_in
from shared.storage.objects import ObjectStore

MAX_CHUNK_BYTES: Final = 2**20
UPLOAD_FILES: Final = "upload-"


class UploadStore:
    """Stores uploaded files under the SHA-256 of their content.

    Args:
        objects: Where the files are stored.
        work_dir: Holds a file until it is complete.
        max_bytes: Largest file accepted, in bytes.
    """

    def __init__(self, objects: ObjectStore, work_dir: Path, max_bytes: int) -> None:
        self._objects = objects
        self._work_dir = work_dir
        self._max_bytes = max_bytes

    async def store(self, chunks: AsyncIterator[bytes]) -> str:
        """Store the chunks as one object. If anything fails, nothing is stored.

        Returns:
            SHA-256 of the file, in hex; `upload_key` gives the name of the object.

        Raises:
            InvalidInput: If a chunk is too large, or the file is empty or too large.
            Unavailable: If the object store cannot be reached, or there is no room for the file.
        """
        digest, size = hashlib.sha256(), 0
        with room_in(self._work_dir), self._temporary_file() as file:
            async for chunk in chunks:
                size += len(chunk)
                self._check_size(len(chunk), size)
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            if size == 0:
                raise InvalidInput("chunk", "the file is empty")
            file.flush()
            key = upload_key(digest.hexdigest())
            await asyncio.to_thread(self._objects.put_file, key, Path(file.name))
        return digest.hexdigest()

    @contextmanager
    def _temporary_file(self) -> Iterator[BinaryIO]:
        # A file of `tempfile` stays when there is no room for the rest of its buffer.
        path = self._work_dir / f"{UPLOAD_FILES}{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def _check_size(self, chunk_bytes: int, file_bytes: int) -> None:
        if chunk_bytes > MAX_CHUNK_BYTES:
            raise InvalidInput(
                "chunk", f"has {chunk_bytes} bytes; the limit is {MAX_CHUNK_BYTES} per message"
            )
        if file_bytes > self._max_bytes:
            raise InvalidInput(
                "chunk",
                f"the file is larger than {self._max_bytes} bytes, the trainer's"
                " MAGFACE_UPLOAD_MAX_BYTES",
            )
