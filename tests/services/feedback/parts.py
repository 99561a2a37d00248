"""The service as a process, on stores of its own."""

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
class Parts:
    """What can be killed."""

    postgres: PostgresServer
    objects: S3Server
    service: ServiceProcess
    database_url: str

    @property
    def servers(self) -> list[ChildProcess]:
        return [self.service, self.postgres, self.objects]


@contextmanager
def running(
    folder: Path,
    object_store: Callable[[Path], S3Server] = NanioServer,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Parts]:
    """The embedded stores and the service on them, as `magface up` runs them.

    Args:
        folder: For everything they write.
        object_store: Which S3 server.
        changes: Variables of the service's environment.
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
        yield Parts(postgres, objects, stack.enter_context(service), database_url)
