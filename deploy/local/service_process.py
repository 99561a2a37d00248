"""A service of this repository as a child process on a port of its own."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from deploy.local.child_process import ChildProcess, Command
from deploy.local.state_files import PortBook, is_released
from shared.errors import PreconditionFailed
from shared.rpc.access.transport import channel_to_self
from shared.rpc.health import answers, is_serving
from shared.settings import TlsSettings

# From the port of a service to that of its metrics.
METRICS_OFFSET = 1000
# More than the ten seconds that a service waits for its calls in flight.
_STOP_GRACE_S = 15.0
# A service that is short of processor time may answer late; its own watchdog waits for a minute.
_SILENCE_S = 30.0
_ANSWER_TIMEOUT_S = 5.0
# The first start waits until the bundled checkpoint has become a model version.
_READY_TIMEOUT_S = 300.0


class ServiceProcess(ChildProcess):
    """``python -m MODULE`` with settings from ``MAGFACE_…``, ready once its health check passes.

    Args:
        name: For messages, the log file, and the entry in ``ports``.
        module: For instance ``services.embedder``.
        folder: The stack's folder; logs and caches stay below it.
        settings: Called at each start; gives variables that extend this process's environment.
        port: To listen on, with the metrics 1000 above; None for free ones that are kept.
        waits_for: What it needs before it is ready, for people.
        tls: The certificate of the service, for the health check; it uses no TLS without it.
    """

    def __init__(
        self,
        name: str,
        module: str,
        folder: Path,
        ports: PortBook,
        settings: Callable[[], Mapping[str, str]],
        *,
        port: int | None = None,
        waits_for: str = "its stores",
        tls: TlsSettings | None = None,
    ) -> None:
        super().__init__(
            name,
            folder / "logs" / f"{name}.log",
            stop_grace_s=_STOP_GRACE_S,
            ready_timeout_s=_READY_TIMEOUT_S,
            silence_s=_SILENCE_S,
            waits_for=waits_for,
        )
        self._wanted_port = port
        self._metrics_port = 0
        self._module = module
        self._folder = folder
        self._ports = ports
        self._settings = settings
        self._connect = partial(channel_to_self, tls=tls)
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port``; valid once a port has been reserved."""
        return f"127.0.0.1:{self._port}"

    @property
    def metrics_address(self) -> str:
        """``host:port`` of the metrics page; valid once a port has been reserved."""
        return f"127.0.0.1:{self._metrics_port}"

    def reserve_port(self) -> None:
        """Chooses the ports before the launch, for services that need the address.

        Raises:
            PreconditionFailed: A port that was asked for is in use.
        """
        if self._wanted_port is None:
            self._port = self._ports.take(self.name)
            self._metrics_port = self._ports.take(f"{self.name}-metrics")
            return
        self._port = self._wanted_port
        self._metrics_port = self._port + METRICS_OFFSET
        for port in (self._port, self._metrics_port):
            if not is_released(port):
                raise PreconditionFailed(
                    f"port {port} of 127.0.0.1, for the {self.name}, is in use: stop the program "
                    "that has it, or choose other ports with --port"
                )

    def _prepare(self) -> Command:
        self.reserve_port()
        work = self._folder / "work" / self.name
        work.mkdir(parents=True, exist_ok=True)
        return Command(
            # -P: the working folder is not on the import path.
            argv=[sys.executable, "-P", "-m", self._module],
            cwd=work,
            env={**os.environ, **_cache_folders(work), **self._settings()}
            | {
                "MAGFACE_LISTEN": self.address,
                "MAGFACE_METRICS_PORT": str(self._metrics_port),
            },
        )

    def is_alive(self) -> bool:
        return answers(self.address, _ANSWER_TIMEOUT_S, self._connect)

    def _answers(self) -> bool:
        return is_serving(self.address, connect=self._connect)


def _cache_folders(work: Path) -> dict[str, str]:
    """Variables that keep the caches of libraries inside the folder."""
    names = ("TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    return {name: str(work) for name in names} | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
