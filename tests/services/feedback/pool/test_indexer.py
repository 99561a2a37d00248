"""Tests of the pool index: complete, by one version, and rebuilt after a swap."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import numpy as np
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.settings import FeedbackSettings
from tests.services.feedback.support.helpers import marked, picture, sha256, stub_on
from tests.services.feedback.support.standin_embedder import StandInEmbedder, embedding_of, served
from tests.support.waiting import until

Stub = feedback_pb2_grpc.FeedbackServiceStub
_IMAGES = 90


@pytest.fixture
def embedder() -> StandInEmbedder:
    return StandInEmbedder("one")


@asynccontextmanager
async def running_service(
    settings: FeedbackSettings, embedder: StandInEmbedder
) -> AsyncIterator[Stub]:
    """The service with a stand-in embedder and a short poll interval."""
    async with served(embedder) as address:
        changes = {"embedder_address": address, "feedback_pool_poll_s": 0.1}
        async with stub_on(settings.model_copy(update=changes)) as stub:
            yield stub


async def fill(stub: Stub, first: int = 0, count: int = _IMAGES) -> None:
    async def images() -> AsyncIterator[pb.ImportImagesRequest]:
        for number in range(first, first + count):
            yield pb.ImportImagesRequest(image=marked(picture(number)))

    await stub.ImportImages(images())


def stored_embeddings(database_url: str) -> dict[str, dict[str, np.ndarray]]:
    """Embeddings by version and hex SHA-256."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT model_version, sha256, embedding::real[]"
            " FROM feedback.embeddings JOIN feedback.pool_versions USING (version_id)"
        )
        for version, image, embedding in rows:
            found.setdefault(version, {})[image.hex()] = np.array(embedding, np.float32)
    return found


def is_complete(database_url: str, version: str, images: int = _IMAGES) -> bool:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT model_version, complete_at IS NOT NULL FROM feedback.pool_versions"
        ).fetchall()
    stored = stored_embeddings(database_url)
    return rows == [(version, True)] and len(stored.get(version, {})) == images


def candidates(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM feedback.candidates").fetchone()
    return row[0] if row else 0


async def test_every_image_is_embedded_by_the_serving_version(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one"))
        found = stored_embeddings(database_url)["one"]
        for number in range(_IMAGES):
            expected = embedding_of(picture(number), "one")
            np.testing.assert_allclose(found[sha256(number)], expected, atol=1e-6)
        await fill(stub, first=_IMAGES, count=10)
        await until(lambda: is_complete(database_url, "one", _IMAGES + 10))


async def test_after_a_swap_the_new_version_replaces_the_old_one_and_they_never_mix(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one"))
        await fill(stub, first=_IMAGES, count=40)
        embedder.swap_to, embedder.swap_after = "two", embedder.embedded + 1
        embedder.version = "one"
        await fill(stub, first=_IMAGES + 40, count=40)
        await until(lambda: is_complete(database_url, "two", _IMAGES + 80))
    for number in range(_IMAGES + 80):
        expected = embedding_of(picture(number), "two")
        found = stored_embeddings(database_url)["two"][sha256(number)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relname ~ '^embeddings_[0-9]+$'"
        ).fetchall()
    assert len(rows) == 1, "the old version's table is gone"


async def test_cut_off_in_the_middle_it_goes_on_where_it_was(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    embedder.stop_after = 40
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: embedder.embedded >= 40)
    stored = len(stored_embeddings(database_url)["one"])
    assert 0 < stored < _IMAGES
    embedder.stop_after = None
    async with running_service(settings, embedder):
        await until(lambda: is_complete(database_url, "one"))
    assert embedder.embedded <= _IMAGES + 32, "at most the batch that was cut off comes again"


async def test_an_image_that_cannot_be_embedded_keeps_no_other_out(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    embedder.refused = {picture(7), picture(50)}
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one", _IMAGES - 2))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT sha256, why FROM feedback.unembeddable").fetchall()
    assert {row[0].hex() for row in rows} == {sha256(7), sha256(50)}
    assert all("no face" in row[1] for row in rows)


async def handed_out(stub: Stub, annotator: str) -> set[str]:
    """Images of all pairs that an annotator gets."""
    asked = pb.NextPairsRequest(annotator=annotator, count=100)
    pairs = (await stub.NextPairs(asked)).pairs
    return {sha256 for pair in pairs for sha256 in (pair.sha256_a, pair.sha256_b)}


async def test_an_image_that_is_left_out_of_the_pool_is_in_no_pair(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    left_out = set(map(sha256, range(0, 30, 2)))
    embedder.refused = set(map(picture, range(0, 30, 2)))
    async with running_service(settings, embedder) as stub:
        await fill(stub, count=30)
        await until(lambda: is_complete(database_url, "one", 15))
        await until(lambda: candidates(database_url) > 20)
        images = await handed_out(stub, "ann") | await handed_out(stub, "bob")
        assert images
        assert not images & left_out
        # The next version finds faces in them.
        embedder.refused, embedder.version = set(), "two"
        await until(lambda: is_complete(database_url, "two", 30))

        numbers = count()

        async def is_handed_out() -> bool:
            return bool(await handed_out(stub, f"annotator-{next(numbers)}") & left_out)

        await until(is_handed_out)


async def test_an_erased_image_takes_its_embedding_and_its_candidates_along(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one"))
        # The queue is filled after the last embedding.
        await until(lambda: bool(candidates(database_url)))
        leased = await stub.NextPairs(pb.NextPairsRequest(annotator="ann", count=20))
        name = leased.pairs[0].sha256_a
        gone = bytes.fromhex(name)
        assert name in stored_embeddings(database_url)["one"]
        await stub.DeleteImage(
            pb.DeleteImageRequest(sha256=name, requested_by="officer", request_id="ticket 7")
        )
    with psycopg.connect(database_url) as connection:
        for table, columns in (
            ("embeddings", ("sha256",)),
            ("candidates", ("image_a", "image_b")),
            ("leases", ("image_a", "image_b")),
        ):
            for column in columns:
                row = connection.execute(
                    f"SELECT count(*) FROM feedback.{table} WHERE {column} = %s",  # noqa: S608
                    [gone],
                ).fetchone()
                assert row == (0,)


async def test_an_embedded_pool_is_asked_about_by_every_strategy(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one"))

        def prepared() -> set[str]:
            with psycopg.connect(database_url) as connection:
                rows = connection.execute("SELECT DISTINCT strategy FROM feedback.candidates")
                return {strategy for (strategy,) in rows}

        await until(lambda: prepared() >= {"uncertainty", "hard", "random"})
        leased = await stub.NextPairs(
            pb.NextPairsRequest(annotator="ann", count=20, strategy=pb.STRATEGY_HARD)
        )
    assert len(leased.pairs) == 20
    assert leased.note == ""


async def test_two_versions_that_disagree_give_pairs_to_ask_about(
    settings: FeedbackSettings, embedder: StandInEmbedder, database_url: str
) -> None:
    async with running_service(settings, embedder) as stub:
        await fill(stub)
        await until(lambda: is_complete(database_url, "one"))
        embedder.version = "two"
        await until(lambda: is_complete(database_url, "two"))
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM feedback.candidates WHERE strategy = 'disagreement'"
        ).fetchone()
    assert row is not None
    assert row[0] > 0


async def test_without_an_embedder_pairs_are_random_and_the_note_says_why(
    settings: FeedbackSettings, database_url: str
) -> None:
    async with stub_on(settings.model_copy(update={"feedback_pool_poll_s": 0.1})) as stub:
        await fill(stub, count=30)
        leased = pb.NextPairsResponse()

        async def leased_ten() -> bool:
            nonlocal leased
            leased = await stub.NextPairs(pb.NextPairsRequest(annotator="ann", count=10))
            return len(leased.pairs) == 10

        await until(leased_ten)
    assert "MAGFACE_EMBEDDER_ADDRESS" in leased.note
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT DISTINCT strategy FROM feedback.leases").fetchall()
    assert rows == [("random",)]
