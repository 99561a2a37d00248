"""Fixtures with real servers, and the distribution of tests over processes.

Each process of pytest-xdist is a separate session, with its own Postgres and S3 server.
"""

import os
import secrets
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from deploy.local.postgres import PostgresServer
from deploy.local.stack import Stack
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.seaweedfs import SeaweedServer
from tests.support.turns import turn

# One thread each, since there are as many processes as cores. Waiting threads sleep: by default
# they would spin on a core that others need.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MAGFACE_ENGINE_THREADS": "1",
}


# Folders whose tests share fixtures that are slow to create: a running stack, exported networks.
# The first is tests/cli and tests/clients, which use one stack.
_WHOLE_FOLDERS = ("tests/cli", "tests/services/embedder/")


class _ByFile(LoadScopeScheduling):
    """Assigns whole files, and some whole folders, to a process, so that fixtures run once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in _WHOLE_FOLDERS if file.startswith(folder)), file)


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment of the worker processes, which start after this."""
    if config.getoption("numprocesses", None):
        for name, value in _ONE_THREAD.items():
            os.environ.setdefault(name, value)


def pytest_xdist_auto_num_workers() -> int:
    """Number of processes of ``-n auto``; each needs up to 1.5 GB."""
    return min(max(2, os.cpu_count() or 2), 8)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs tests that are marked ``alone`` while no other worker process runs one."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    # Each worker has a folder of its own in that of the run.
    folder = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
    with turn(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    """Resets the number of torch's threads, which sessions and trainings change."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _onnxruntime_threads() -> Iterator[None]:
    """Checks that no test makes its process share onnxruntime's threads, as it cannot be undone.

    A test of what does so starts a process of its own.
    """
    yield
    module = sys.modules.get("shared.model.sessions.onnx")
    assert module is None or not module.threads_shared()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running Postgres for this test session."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        # The data is not needed after a crash of the machine.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server for this test session."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of real services on SeaweedFS."""
    with Stack(tmp_path_factory.mktemp("stack") / "run", object_store=SeaweedServer) as stack:
        yield stack


@pytest.fixture(scope="session")
def make_database(postgres: PostgresServer) -> Callable[[], str]:
    """Function that creates a database and returns its URL; for fixtures of a wider scope."""
    return lambda: postgres.create_database(f"test_{secrets.token_hex(6)}")


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    """URL of a new database for this test."""
    return make_database()


@pytest.fixture
def object_store_settings(seaweedfs: SeaweedServer) -> ObjectStoreSettings:
    """Settings of the object store with a new bucket for this test."""
    bucket = f"test-{secrets.token_hex(6)}"
    settings = seaweedfs.settings().model_copy(update={"s3_bucket": bucket})
    ObjectStore(settings).ensure_bucket()
    return settings


@pytest.fixture
def object_store(object_store_settings: ObjectStoreSettings) -> ObjectStore:
    """The object store with a new bucket for this test."""
    return ObjectStore(object_store_settings)
