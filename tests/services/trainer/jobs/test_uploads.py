import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.trainer.jobs.uploads import UploadStore
from shared.errors import Unavailable
from shared.storage.objects import ObjectStore
from tests.support.details import raises_with_details
from tests.support.full_disk import largest_file


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield b"x" * 1000


async def test_an_upload_for_which_there_is_no_room_is_unavailable_and_leaves_nothing(
    object_store: ObjectStore, tmp_path: Path
):
    uploads = UploadStore(object_store, tmp_path, 2**20)
    with largest_file(8000), raises_with_details(Unavailable, match=f"no room left .*{tmp_path}"):
        await uploads.store(_chunks())
    assert not any(os.scandir(tmp_path))
    assert await uploads.store(_chunks())
