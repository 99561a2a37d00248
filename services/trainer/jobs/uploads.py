"""Takes a checkpoint that is sent in pieces."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from services.trainer.worker.specs import upload_key
from shared.errors import InvalidInput
from shared.storage.objects import ObjectStore

MAX_CHUNK_BYTES = 2**20


class Uploads:
    """Stores uploaded files under the hash of their content.

    Args:
        work_dir: Takes a file until it is complete.
        max_bytes: Largest file accepted.
    """

    def __init__(self, objects: ObjectStore, work_dir: Path, max_bytes: int) -> None:
        self._objects = objects
        self._work_dir = work_dir
        self._max_bytes = max_bytes

    async def store(self, chunks: AsyncIterator[bytes]) -> str:
        """Write the chunks as one object; nothing is kept unless all of it is.

        Returns:
            SHA-256 of the file, by which `upload_key` names the object.

        Raises:
            InvalidInput: If a chunk is too large, or the file is empty or too large.
            Unavailable: If the object store cannot be reached.
        """
        digest, size = hashlib.sha256(), 0
        with NamedTemporaryFile(dir=self._work_dir, prefix="upload-") as file:
            async for chunk in chunks:
                if len(chunk) > MAX_CHUNK_BYTES:
                    raise InvalidInput(
                        "chunk", f"has {len(chunk)} bytes; send at most {MAX_CHUNK_BYTES} at once"
                    )
                size += len(chunk)
                if size > self._max_bytes:
                    raise InvalidInput(
                        "chunk",
                        f"the file is larger than {self._max_bytes} bytes, the trainer's"
                        " MAGFACE_UPLOAD_MAX_BYTES",
                    )
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            if size == 0:
                raise InvalidInput("chunk", "the file is empty")
            file.flush()
            key = upload_key(digest.hexdigest())
            await asyncio.to_thread(self._objects.put_file, key, Path(file.name))
        return digest.hexdigest()
