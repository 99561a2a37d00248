"""Tests with stores that are slow, silent or full."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer
from services.feedback.settings import FeedbackSettings
from shared.errors import Unavailable, with_details
from tests.services.feedback.support.helpers import feedback, settings_for, sha256
from tests.services.feedback.support.outages import (
    emptied,
    images_in,
    labels_in,
    objects_in,
    prepared_store,
    unavailable,
)
from tests.services.feedback.support.slow_link import SlowLink
from tests.support.waiting import retry_while_unavailable

_TIMEOUT_S = 0.6
_unavailable = partial(unavailable, timeout_s=_TIMEOUT_S)


@contextmanager
def _link(port: int) -> Iterator[SlowLink]:
    link = SlowLink(port)
    try:
        yield link
    finally:
        link.close()


@pytest.fixture
def settings(database: PostgresServer, s3: NanioServer) -> FeedbackSettings:
    return emptied(database, s3, _TIMEOUT_S)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "bytes_per_s", [0, pytest.param(200, marks=pytest.mark.slow)], ids=["silent", "slow"]
)
async def test_over_a_slow_line_to_postgres_nothing_is_stored_by_halves(
    database: PostgresServer, s3: NanioServer, bytes_per_s: float
) -> None:
    port = urlsplit(database.url).port
    assert port is not None
    with _link(port) as link:
        url = database.url.replace(f":{port}/", f":{link.port}/")
        lines = settings_for(
            url, s3.settings(), database_timeout_s=_TIMEOUT_S, s3_timeout_s=_TIMEOUT_S
        )
        async with prepared_store(lines) as store:
            await store.submit(feedback(1, 2))
            lost = feedback(3, 4)
            by_hash = feedback(image_a=sha256(1), image_b=sha256(2), annotator="bob")
            with link.slowed(bytes_per_s):
                await asyncio.gather(
                    *map(_unavailable, (store.submit(lost), store.submit(by_hash), store.stats()))
                )
            assert images_in(database.url) <= objects_in(s3.settings())
            for label in (lost, by_hash):
                await retry_while_unavailable(lambda label=label: store.submit(label))
            assert (await store.stats()).labels == labels_in(database.url) == 3
    assert images_in(database.url) == objects_in(s3.settings())


@pytest.mark.parametrize("bytes_per_s", [0, 200], ids=["silent", "slow"])
async def test_over_a_slow_line_to_the_object_store_no_row_comes_before_its_object(
    settings: FeedbackSettings, database: PostgresServer, s3: NanioServer, bytes_per_s: float
) -> None:
    with _link(int(s3.settings().s3_endpoint.rpartition(":")[2])) as link:
        near = {"s3_endpoint": f"127.0.0.1:{link.port}"}
        async with prepared_store(settings.model_copy(update=near)) as store:
            await store.submit(feedback(1, 2))
            lost = feedback(3, 4)
            with link.slowed(bytes_per_s):
                await asyncio.gather(
                    _unavailable(store.submit(lost)), _unavailable(store.get_image(sha256(1)))
                )
                # A label without image bytes is stored.
                await store.submit(feedback(image_a=sha256(1), image_b=sha256(2), annotator="bob"))
            assert images_in(database.url) == {sha256(1), sha256(2)}
            await retry_while_unavailable(lambda: store.submit(lost))
    assert labels_in(database.url) == 3
    assert images_in(database.url) <= objects_in(s3.settings())


async def test_labels_of_a_stream_wait_for_a_slow_object_store_and_none_is_refused(
    settings: FeedbackSettings, database: PostgresServer, s3: NanioServer
) -> None:
    with _link(int(s3.settings().s3_endpoint.rpartition(":")[2])) as link:
        near = {"s3_endpoint": f"127.0.0.1:{link.port}"}
        async with prepared_store(settings.model_copy(update=near)) as store:
            await store.submit(feedback(1, 2))
            labels = [feedback(2 * n, 2 * n + 1) for n in range(2, 102)]
            started = time.monotonic()
            with link.slowed(100_000):
                await asyncio.gather(*(store.submit(label, in_turn=True) for label in labels))
            # All together take longer than one may.
            assert time.monotonic() - started > 2 * _TIMEOUT_S
    assert labels_in(database.url) == 101


@pytest.mark.usefixtures("s3")
async def test_labels_of_a_stream_wait_for_a_far_database_and_single_ones_find_room(
    settings: FeedbackSettings, database: PostgresServer
) -> None:
    port = urlsplit(database.url).port
    assert port is not None
    with _link(port) as link:
        url = SecretStr(database.url.replace(f":{port}/", f":{link.port}/"))
        async with prepared_store(settings.model_copy(update={"database_url": url})) as store:
            await store.submit(feedback(1, 2))
            labels = [feedback(2 * n, 2 * n + 1) for n in range(2, 52)]
            started = time.monotonic()
            link.delay_s = 0.02
            streamed = asyncio.gather(*(store.submit(label, in_turn=True) for label in labels))
            await asyncio.sleep(_TIMEOUT_S / 2)
            await store.submit(feedback(1000, 1001))
            await streamed
            # All together take longer than one may.
            assert time.monotonic() - started > 2 * _TIMEOUT_S
    assert labels_in(database.url) == 52


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small file system that nothing else uses."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Fill the file system with one file, which can be removed again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (2**20, 4096, 1):
            try:
                while file.write(bytes(block)) == block:
                    pass
            except OSError:
                continue
    return ballast


async def test_with_postgres_full_labels_are_refused_whole_and_stored_once_there_is_room(
    s3: NanioServer, settings: FeedbackSettings, tmp_path: Path
) -> None:
    with (
        _small_disk(tmp_path / "disk", "160m") as disk,
        PostgresServer(disk / "postgres") as full,
    ):
        lines = settings_for(full.url, s3.settings(), s3_timeout_s=settings.s3_timeout_s)
        async with prepared_store(lines) as store:
            await store.submit(feedback(1, 2))
            ballast = _fill(disk)
            stored = 1
            while stored < 2000:
                label = feedback(image_a=sha256(1), image_b=sha256(2), annotator=f"ann-{stored}")
                try:
                    await store.submit(label)
                except Unavailable as error:
                    assert "No space left" in with_details(error)
                    break
                stored += 1
            await _unavailable(store.submit(label))
            assert (await store.stats()).labels == labels_in(full.url) == stored
            ballast.unlink()
            await store.submit(label)
            assert (await store.stats()).labels == labels_in(full.url) == stored + 1


@pytest.mark.usefixtures("settings")
async def test_with_the_object_store_full_no_row_is_stored_until_there_is_room(
    database: PostgresServer, tmp_path: Path
) -> None:
    with _small_disk(tmp_path / "disk", "8m") as disk, NanioServer(disk / "s3") as full:
        lines = settings_for(database.url, full.settings(), s3_timeout_s=_TIMEOUT_S)
        async with prepared_store(lines) as store:
            await store.submit(feedback(1, 2))
            ballast = _fill(disk)
            lost = feedback(1, 3)
            await _unavailable(store.submit(lost))
            assert images_in(database.url) == {sha256(1), sha256(2)}
            assert labels_in(database.url) == 1
            ballast.unlink()
            await retry_while_unavailable(lambda: store.submit(lost))
            assert images_in(database.url) <= objects_in(full.settings())
    assert len(images_in(database.url)) == 3
