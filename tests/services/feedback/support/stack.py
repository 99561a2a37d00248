"""The feedback service as a process, with a Postgres and an object store of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.child_process import ChildProcess
from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer, S3Server
from deploy.local.service_process import ServiceProcess
from deploy.local.state_files import PortBook


@dataclass(frozen=True)
class FeedbackStack:
    """The processes, each of which a test may kill."""

    postgres: PostgresServer
    objects: S3Server
    service: ServiceProcess
    database_url: str

    @property
    def servers(self) -> list[ChildProcess]:
        return [self.service, self.postgres, self.objects]


@contextmanager
def running_stack(
    folder: Path,
    object_store: Callable[[Path], S3Server] = NanioServer,
    changes: Mapping[str, str] | None = None,
) -> Iterator[FeedbackStack]:
    """Run the embedded stores and the service, as `magface up` does.

    Args:
        folder: For all of their files.
        object_store: Starts the S3 server.
        changes: Environment variables of the service.
    """
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(folder / "postgres"))
        objects = stack.enter_context(object_store(folder / "objects"))
        database_url = postgres.create_database("magface")
        store = objects.settings()

        def settings() -> dict[str, str]:
            return {
                "MAGFACE_DATABASE_URL": database_url,
                "MAGFACE_S3_ENDPOINT": store.s3_endpoint,
                "MAGFACE_S3_ACCESS_KEY": store.s3_access_key,
                "MAGFACE_S3_SECRET_KEY": store.s3_secret_key.get_secret_value(),
                "MAGFACE_S3_BUCKET": store.s3_bucket,
                **(changes or {}),
            }

        ports = PortBook(folder / "ports.json")
        service = ServiceProcess("feedback", "services.feedback", folder, ports, settings)
        yield FeedbackStack(postgres, objects, stack.enter_context(service), database_url)
