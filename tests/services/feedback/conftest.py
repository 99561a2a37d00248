from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from magface.v1 import feedback_pb2_grpc

from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer
from services.feedback.labels.service import LabelService
from services.feedback.server import open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.services.feedback.support.helpers import Stored, settings_for, stub_on, vaults
from tests.support.seaweedfs import SeaweedServer


@pytest.fixture(scope="session")
def feedback_database(make_database: Callable[[], str]) -> str:
    return make_database()


@pytest.fixture
def database_url(feedback_database: str) -> str:
    """The database of all these tests, emptied for each: creating one takes longer."""
    with psycopg.connect(feedback_database) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    return feedback_database


@pytest.fixture(scope="session")
def feedback_bucket(seaweedfs: SeaweedServer) -> ObjectStoreSettings:
    """The bucket of all these tests: the first write to a new bucket takes SeaweedFS seconds."""
    settings = seaweedfs.settings().model_copy(update={"s3_bucket": "feedback"})
    patient = ObjectStore(settings.model_copy(update={"s3_timeout_s": 30.0}))
    patient.ensure_bucket()
    patient.put("first", b"")
    return settings


@pytest.fixture
def object_store_settings(feedback_bucket: ObjectStoreSettings) -> ObjectStoreSettings:
    objects = ObjectStore(feedback_bucket)
    for found in list(objects.list()):
        objects.remove(found.key)
    return feedback_bucket


@pytest.fixture
def settings(database_url: str, object_store_settings: ObjectStoreSettings) -> FeedbackSettings:
    return settings_for(database_url, object_store_settings)


@pytest.fixture
async def store(
    settings: FeedbackSettings, object_store: ObjectStore
) -> AsyncIterator[LabelService]:
    """The label service on real stores, without gRPC."""
    await prepare_stores(settings, object_store)
    async with open_label_service(settings, vaults(settings, object_store)) as (store, _):
        yield store


@pytest.fixture
async def stub(settings: FeedbackSettings) -> AsyncIterator[feedback_pb2_grpc.FeedbackServiceStub]:
    """A client of the whole service over gRPC."""
    async with stub_on(settings) as stub:
        yield stub


@pytest.fixture
def stored(database_url: str, object_store: ObjectStore) -> Callable[[], Stored]:
    """Counts rows and objects directly in the stores."""

    def count() -> Stored:
        tables = ("images", "pairs", "labels", "annotators", "pair_consensus")
        with psycopg.connect(database_url) as connection:
            rows = [
                connection.execute(f"SELECT count(*) FROM feedback.{table}").fetchone()  # noqa: S608
                for table in tables
            ]
        counts = [row[0] for row in rows if row is not None]
        return Stored(*counts, objects=sum(1 for _ in object_store.list("images/")))

    return count


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A Postgres of its own, which a test may stop; `s3` likewise."""
    with PostgresServer(tmp_path_factory.mktemp("lone-postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NanioServer]:
    with NanioServer(tmp_path_factory.mktemp("lone-s3")) as server:
        yield server
