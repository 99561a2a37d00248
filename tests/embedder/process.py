"""The embedder as a process of its own, to be stopped and killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from services.embedder.settings import EmbedderSettings
from shared.settings import ObjectStoreSettings
from tests.embedder.waiting import until


class EmbedderProcess:
    def __init__(self, settings: EmbedderSettings, folder: Path, **changes: str) -> None:
        self._endpoint = folder / "endpoint"
        self._endpoint.unlink(missing_ok=True)
        self._log = folder / "embedder.log"
        self._metrics_port = _free_port()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.embedder"],
                env=self._environment(settings) | changes,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "EmbedderProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def address(self) -> str:
        await until(lambda: self._endpoint.exists() or self._process.poll() is not None, 30)
        assert self._endpoint.exists(), self.log
        return self._endpoint.read_text()

    def embeds_started(self) -> int:
        """Embed calls whose handler runs or has answered, by the server's own count."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/", timeout=10)
        text = page.read().decode()
        counts = re.findall(
            r"^magface_rpc_(?:in_flight|calls_total){.*/Embed\"} (\S+)$", text, re.M
        )
        return int(sum(map(float, counts)))

    def niceness(self) -> list[int]:
        """Of each of its threads; Linux only."""
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return [os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads]

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float = 30) -> int:
        return self._process.wait(seconds)

    def _environment(self, settings: EmbedderSettings) -> dict[str, str]:
        store = ObjectStoreSettings(**settings.model_dump())
        secret = store.s3_secret_key.get_secret_value()
        ours = store.model_dump() | {"s3_secret_key": secret}
        ours |= {"cache_dir": settings.cache_dir, "endpoint_file": self._endpoint}
        ours |= {"engine_threads": 1, "decode_threads": 2, "metrics_port": self._metrics_port}
        return os.environ | {f"MAGFACE_{name.upper()}": str(value) for name, value in ours.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
