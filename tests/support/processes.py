"""Services under test as child processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

from shared.settings import ObjectStoreSettings
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
# An address without a service.
NOWHERE = "127.0.0.1:9"
# Long because an import of torch takes long on a busy machine.
_START_S = 120.0
_STOP_S = 60.0


class ServiceProcess:
    """``python -m MODULE``, which can be stopped, killed and restarted.

    A context manager that kills the process at the end of the block.

    Args:
        module: For instance ``services.trainer``.
        folder: For ``endpoint``, the file with its address, and ``log``; created when absent.
        environment: Variables to add to the environment of this process.
        arguments: Arguments of the module.
    """

    def __init__(
        self,
        module: str,
        folder: Path,
        environment: Mapping[str, str],
        arguments: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._argv = [sys.executable, "-m", module, *arguments]
        self._endpoint, self._log = folder / "endpoint", folder / "log"
        self._environment = {
            **environment,
            "MAGFACE_ENDPOINT_FILE": str(self._endpoint),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` of the last start."""
        return self._endpoint.read_text()

    @property
    def has_address(self) -> bool:
        """Whether the file with the address exists; a clean stop removes it."""
        return self._endpoint.exists()

    @property
    def log(self) -> str:
        """Its output since the first start."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self._started().pid

    def launch(self) -> None:
        """Starts it without waiting until it is ready."""
        self._endpoint.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=REPOSITORY,
                env=os.environ | self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> str:
        """Starts it, waits for its address and returns that."""
        self.launch()
        process = self._started()
        wait_until(lambda: self.has_address or process.poll() is not None, _START_S)
        assert self.has_address, self.log
        return self.address

    def send_signal(self, number: signal.Signals) -> None:
        self._started().send_signal(number)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Waits until it exits, and returns the exit status."""
        return self._started().wait(timeout_s)

    def stop(self, timeout_s: float = _STOP_S) -> int:
        """Stops it with SIGTERM, and returns the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._started().kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the process was not started"
        return self._process


def service_environment(
    database_url: str, s3: ObjectStoreSettings, **more: object
) -> dict[str, str]:
    """Environment variables of a service that uses these stores."""
    settings = {
        "database_url": database_url,
        "s3_endpoint": s3.s3_endpoint,
        "s3_access_key": s3.s3_access_key,
        "s3_secret_key": s3.s3_secret_key.get_secret_value(),
        "s3_bucket": s3.s3_bucket,
        **more,
    }
    return {f"MAGFACE_{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def running_module(module: str, *arguments: str) -> Iterator[None]:
    """Run ``python -m MODULE`` during the block, which it must not end by itself."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def lives(pid: int) -> bool:
    """Whether a process is running, child or not; a zombie is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that is currently unused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
