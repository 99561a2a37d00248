"""The embedder as deployed: a process of its own, with its versions in an S3 server."""

import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import psutil
from magface.v1 import embedder_pb2 as pb
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from deploy.local.s3_nanio import NanioServer
from deploy.local.service_process import ServiceProcess
from deploy.local.state_files import PortBook
from shared.registry.serving_pointer import ServingPointer, write_pointer
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.waiting import wait_until


class VersionPublisher:
    """Stand-in for the trainer: publishes versions, promotes them and sets the shadow version."""

    def __init__(self, settings: ObjectStoreSettings, folder: Path) -> None:
        self._objects = ObjectStore(settings)
        self._versions = VersionStore(self._objects, folder / "registry-cache")
        self._generation = 0

    def publish(self, folder: Path) -> None:
        self._versions.publish(folder)

    def promote(self, model_version: str) -> None:
        self._generation += 1
        now = datetime.now(UTC)
        pointer = ServingPointer(
            model_version=model_version, generation=self._generation, published_at=now
        )
        write_pointer(self._objects, pointer)

    def set_shadow(self, model_version: str) -> None:
        """Set the version for shadow evaluation; an empty one ends the evaluation."""
        if model_version:
            write_shadow(self._objects, ShadowPointer(model_version=model_version))
        else:
            clear_shadow(self._objects)


class Embedder:
    """A running embedder, with its memory and metrics."""

    def __init__(
        self, server: ServiceProcess, metrics_port: int, registry: VersionPublisher
    ) -> None:
        self._server = server
        self._metrics_port = metrics_port
        self.registry = registry

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def pid(self) -> int:
        assert self._server.pid is not None
        return self._server.pid

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/", timeout=10)
        return sum_samples(page.read().decode(), name, labels)

    def serving_version(self) -> str:
        with grpc.insecure_channel(self.address) as channel:
            stub = EmbedderServiceStub(channel)
            answer = stub.GetModel(pb.GetModelRequest(), timeout=10)
            return str(answer.model_version)

    def swap_to(self, model_version: str) -> None:
        """Promote a version and wait until it serves."""
        self.registry.promote(model_version)
        wait_until(
            lambda: self.serving_version() == model_version, what=f"{model_version} to serve"
        )


def sum_samples(page: str, name: str, labels: dict[str, str]) -> float:
    """Sum the samples of a metric in a Prometheus page that have these labels."""
    total = 0.0
    for text, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", page, re.M):
        found = dict(re.findall(r'(\w+)="([^"]*)"', text))
        if labels.items() <= found.items():
            total += float(value)
    return total


@contextmanager
def running_embedder(folder: Path, versions: list[Path], **settings: str) -> Iterator[Embedder]:
    """Run an embedder with the default settings that serves the first of some versions.

    Args:
        folder: For the store, the cache and the logs; it stays.
        versions: Folders of versions, all of which are published.
        settings: Settings that differ from the defaults, such as ``cache_bytes="0"``.
    """
    with NanioServer(folder / "store") as store:
        registry = VersionPublisher(store.settings(), folder)
        for version in versions:
            registry.publish(version)
        registry.promote(versions[0].name)
        ports = PortBook(folder / "ports.json")
        metrics_port = ports.take("embedder-metrics")
        environment = _environment(store.settings(), metrics_port, settings)
        server = ServiceProcess("embedder", "services.embedder", folder, ports, environment)
        with server:
            yield Embedder(server, metrics_port, registry)


def _environment(
    store: ObjectStoreSettings, metrics_port: int, settings: dict[str, str]
) -> Callable[[], dict[str, str]]:
    secret = store.s3_secret_key.get_secret_value()
    values = store.model_dump() | {"s3_secret_key": secret, "metrics_port": metrics_port}
    values |= {"log_level": "WARNING", **settings}
    named = {f"MAGFACE_{name.upper()}": str(value) for name, value in values.items()}
    return lambda: named
