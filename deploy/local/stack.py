"""The embedded stack: Postgres, an S3 server and all services, in one folder."""

import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

from deploy.local.endpoints import Endpoints, S3Endpoint
from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer, S3Server
from deploy.local.service_process import ServiceProcess
from deploy.local.state_files import PortBook
from deploy.local.supervisor import Supervisor
from shared.errors import PreconditionFailed
from shared.settings import ClientSettings, ServerSettings, given_variables

_DATABASE = "magface"
_FIRST_VERSION = (
    "its model version; at the first start the trainer makes it of the bundled network, which "
    "takes half a minute"
)
# The stack sets these itself.
_OWN_SETTINGS = (
    *("MAGFACE_DATABASE_URL", "MAGFACE_S3_ENDPOINT", "MAGFACE_S3_ACCESS_KEY"),
    *("MAGFACE_S3_SECRET_KEY", "MAGFACE_S3_BUCKET", "MAGFACE_S3_SECURE"),
    *("MAGFACE_LISTEN", "MAGFACE_METRICS_PORT", "MAGFACE_ENDPOINT_FILE"),
)


class _AccessSettings(ServerSettings, ClientSettings):
    """What the services read of certificates, keys and tokens."""

    model_jwks: Path | None = None
    model_signing_key: Path | None = None


class Stack:
    """Starts all parts in the order of their dependencies and keeps them running.

    As a context manager it starts on entry and stops on exit. All data lies in the folder,
    where the next stack finds it; nothing outside the folder is changed.

    Args:
        folder: Created when absent.
        embedders: Number of embedder replicas.
        port: Of the first embedder; feedback, trainer and further embedders have the next ones,
            and their metrics pages are 1000 above. 0 for free ports that the folder keeps.
        report: Receives a line of text about each start, end and restart.
        stop: When set, for instance by a signal handler, `start` and `watch` end.
        reference_faces: Folder of the trainer's reference faces; None for that of the environment.
        object_store: Makes the S3 server; one folder needs the same kind each time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embedders: int = 1,
        port: int = 0,
        report: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
        reference_faces: Path | None = None,
        object_store: Callable[[Path, Path], S3Server] = NanioServer,
    ) -> None:
        self.folder = folder.absolute()
        logs = self.folder / "logs"
        self._reference_faces = reference_faces
        self._access = _AccessSettings()
        self._lock: IO[str] | None = None
        self._supervisor = Supervisor(report, stop or threading.Event())
        self._database_url = ""
        self.postgres = PostgresServer(self.folder / "postgres", logs / "postgres.log")
        self.object_store = object_store(self.folder / "objects", logs / "objects.log")
        ports = itertools.count(port) if port else itertools.repeat(None)
        first, second, third = itertools.islice(ports, 3)
        self.feedback = self._service(
            "feedback", "services.feedback", self._feedback_settings, second, "its stores"
        )
        self.trainer = self._service(
            "trainer", "services.trainer", self._trainer_settings, third, "its stores"
        )
        self.embedders = [
            self._service(
                f"embedder-{number}", "services.embedder", self._settings, own, _FIRST_VERSION
            )
            for number, own in zip(
                range(1, embedders + 1), itertools.chain([first], ports), strict=False
            )
        ]

    def start(self) -> Endpoints:
        """Starts all parts, waits until each is ready, and writes ``endpoints.json``.

        Raises:
            PreconditionFailed: Another stack runs in the folder, something is not installed, a
                port is in use, or the environment has settings of other stores.
            Unavailable: A part did not start; those that did are stopped.
            StopRequested: `stop` was set; the parts that had started are stopped.
        """
        _refuse_other_stores()
        self._take_lock()
        try:
            Endpoints.remove(self.folder)
            self._supervisor.bring_up([self.postgres, self.object_store])
            self._database_url = self.postgres.create_database(_DATABASE)
            services = [self.feedback, self.trainer, *self.embedders]
            for service in services:
                service.reserve_port()
            self._supervisor.bring_up(services)
            endpoints = self._endpoints()
            endpoints.write(self.folder)
        except BaseException:
            self.stop()
            raise
        return endpoints

    def watch(self) -> None:
        """Restarts parts that end and services that give no answer, until `stop` is set."""
        self._supervisor.watch()

    def stop(self) -> None:
        """Stops all parts, services first."""
        Endpoints.remove(self.folder)
        self._supervisor.stop_all()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _service(
        self,
        name: str,
        module: str,
        settings: Callable[[], Mapping[str, str]],
        port: int | None,
        waits_for: str,
    ) -> ServiceProcess:
        return ServiceProcess(
            name,
            module,
            self.folder,
            PortBook(self.folder / "ports.json"),
            settings,
            tls=self._access,
            port=port,
            waits_for=waits_for,
        )

    def _settings(self) -> dict[str, str]:
        store = self.object_store.settings()
        return {
            **_absolute_paths(self._access),
            "MAGFACE_DATABASE_URL": self._database_url,
            "MAGFACE_S3_ENDPOINT": store.s3_endpoint,
            "MAGFACE_S3_ACCESS_KEY": store.s3_access_key,
            "MAGFACE_S3_SECRET_KEY": store.s3_secret_key.get_secret_value(),
            "MAGFACE_S3_BUCKET": store.s3_bucket,
            "MAGFACE_S3_SECURE": "false",
        }

    def _feedback_settings(self) -> dict[str, str]:
        return {**self._settings(), "MAGFACE_EMBEDDER_ADDRESS": self._embedder_address()}

    def _trainer_settings(self) -> dict[str, str]:
        settings = {**self._settings(), "MAGFACE_FEEDBACK_ADDRESS": self.feedback.address}
        if self._reference_faces is not None:
            settings["MAGFACE_REFERENCE_FACES"] = str(self._reference_faces.absolute())
        return settings

    def _endpoints(self) -> Endpoints:
        store = self.object_store.settings()
        return Endpoints(
            embedder=self._embedder_address(),
            feedback=self.feedback.address,
            trainer=self.trainer.address,
            embedders=[embedder.address for embedder in self.embedders],
            s3=S3Endpoint(
                endpoint=store.s3_endpoint,
                access_key=store.s3_access_key,
                secret_key=store.s3_secret_key.get_secret_value(),
                bucket=store.s3_bucket,
            ),
            database_url=self._database_url,
            metrics={
                service.name: service.metrics_address
                for service in (self.feedback, self.trainer, *self.embedders)
            },
            pid=os.getpid(),
        )

    def _embedder_address(self) -> str:
        addresses = [embedder.address for embedder in self.embedders]
        # gRPC's syntax for several addresses of one service.
        return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"

    def _take_lock(self) -> None:
        """Locks the folder; the kernel releases the lock when this process ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # It holds faces, labels and passwords. An earlier release left it open to everybody.
        self.folder.chmod(0o700)
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise PreconditionFailed(
                f"another stack (process {owner}) runs in {self.folder}: "
                "stop it, or choose another --dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _refuse_other_stores() -> None:
    """Refuse settings that the stack would have to ignore."""
    given = given_variables()
    if refused := [name for name in _OWN_SETTINGS if name in given]:
        raise PreconditionFailed(
            f"{' and '.join(refused)} cannot be used: the embedded stack has stores and addresses "
            "of its own. Unset this, or run each service on your stores with "
            "`magface serve embedder|feedback|trainer`"
        )


def _absolute_paths(settings: _AccessSettings) -> dict[str, str]:
    """Variables for the files that settings name; the services run in folders of their own."""
    paths = {name: value for name, value in settings if isinstance(value, Path)}
    if settings.jwks is not None and "://" not in settings.jwks:
        paths["jwks"] = Path(settings.jwks)
    return {f"MAGFACE_{name.upper()}": str(path.absolute()) for name, path in paths.items()}
