"""The real servers that tests run against, started once a session and stopped at its end."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from deploy.local.postgres import PostgresServer
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.seaweedfs import SeaweedServer


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running Postgres of the test session's own."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server of the test session's own."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def make_database(postgres: PostgresServer) -> Callable[[], str]:
    """Makes a fresh database and gives its URL; for fixtures of a wider scope."""
    return lambda: postgres.create_database(f"test_{secrets.token_hex(6)}")


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    """URL of a database that is this test's own."""
    return make_database()


@pytest.fixture
def object_store_settings(seaweedfs: SeaweedServer) -> ObjectStoreSettings:
    """Settings of a bucket that is this test's own, and exists."""
    bucket = f"test-{secrets.token_hex(6)}"
    settings = seaweedfs.settings().model_copy(update={"s3_bucket": bucket})
    ObjectStore(settings).ensure_bucket()
    return settings


@pytest.fixture
def object_store(object_store_settings: ObjectStoreSettings) -> ObjectStore:
    """The store on this test's own bucket."""
    return ObjectStore(object_store_settings)
