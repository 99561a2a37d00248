"""One of our gRPC services, run from its module on a port of its own."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.files import PortBook
from deploy.local.server import Command, LocalServer
from shared.rpc.health import is_serving

# More than the ten seconds that a service gives its calls in flight.
_STOP_GRACE_S = 15.0
# The first start waits for the bundled checkpoint to be made a model version.
_READY_TIMEOUT_S = 300.0


class ServiceServer(LocalServer):
    """``python -m MODULE`` with settings from ``MAGFACE_…``, ready once it reports health.

    Args:
        name: For messages, the log, and the port's name in ``ports``.
        module: For instance ``services.embedder``.
        folder: The stack's folder; logs and caches stay below it.
        settings: Asked at each start for the variables to set on top of our environment.
    """

    def __init__(
        self,
        name: str,
        module: str,
        folder: Path,
        ports: PortBook,
        settings: Callable[[], Mapping[str, str]],
    ) -> None:
        super().__init__(
            name,
            folder / "logs" / f"{name}.log",
            stop_grace_s=_STOP_GRACE_S,
            ready_timeout_s=_READY_TIMEOUT_S,
        )
        self._module = module
        self._folder = folder
        self._ports = ports
        self._settings = settings
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port``, once it has been launched."""
        return f"127.0.0.1:{self._port}"

    def reserve_port(self) -> None:
        """Settles the address before the launch, for others that need to know it."""
        self._port = self._ports.take(self.name)

    def _prepare(self) -> Command:
        self.reserve_port()
        work = self._folder / "work" / self.name
        work.mkdir(parents=True, exist_ok=True)
        return Command(
            # -P: neither the working folder nor the caller's is a place to import from.
            argv=[sys.executable, "-P", "-m", self._module],
            cwd=work,
            env={**os.environ, **_side_writes(work), **self._settings()}
            | {"MAGFACE_LISTEN": self.address},
        )

    def _answers(self) -> bool:
        return is_serving(self.address)


def _side_writes(work: Path) -> dict[str, str]:
    """Keeps what libraries write on the side below our folder."""
    names = ("TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    return {name: str(work) for name in names} | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
