"""Overhead of the service: an almost-free network, against a plain server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.state_files import PortBook
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of, run_load
from tests.benchmarks.serving.plan import Plan
from tests.benchmarks.serving.servers.embedder import running_embedder
from tests.benchmarks.serving.servers.process import OtherServer, running
from tests.benchmarks.serving.servers.versions import BenchVersions


def overhead(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Calls per second with the almost-free network, over a server that only decodes."""
    with (
        running_embedder(folder, [versions.almost_free()]) as embedder,
        _running_plain(folder) as plain,
    ):
        raw = alternate(
            {
                "ours": lambda: _calls(Address("grpc", embedder.address), plan),
                "plain": lambda: _calls(plain, plan),
            },
            plan.rounds,
            "overhead",
        )
    return ratio_of(raw, "ours", "plain") | {"unit": "calls/s"}


def _calls(address: Address, plan: Plan) -> float:
    return run_load(address, plan.warm_s + plan.fast_s).calls_per_second(plan.warm_s)


@contextmanager
def _running_plain(folder: Path) -> Iterator[Address]:
    port = PortBook(folder / "ports.json").take("plain")
    address = Address("grpc", f"127.0.0.1:{port}")
    argv = [sys.executable, "-m", "tests.benchmarks.serving.servers.plain_server", str(port)]
    with running(OtherServer(address, argv, {}, folder / "plain" / "server")):
        yield address
