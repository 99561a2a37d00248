"""The embedder in a child process."""

import os
import re
import urllib.request
from contextlib import suppress
from pathlib import Path

from services.embedder.settings import EmbedderSettings
from shared.settings import ObjectStoreSettings
from tests.support.processes import ServiceProcess, free_port


class EmbedderProcess(ServiceProcess):
    """An embedder with the store and the cache folder of these settings.

    Args:
        changes: Further variables of its environment.
    """

    def __init__(self, settings: EmbedderSettings, folder: Path, **changes: str) -> None:
        self._metrics_port = free_port()
        environment = _environment(settings) | {"MAGFACE_METRICS_PORT": str(self._metrics_port)}
        super().__init__("services.embedder", folder, environment | changes)

    def embeds_started(self) -> int:
        """Embed calls that were started, by the server's metrics."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/", timeout=10)
        text = page.read().decode()
        counts = re.findall(
            r"^magface_rpc_(?:in_flight|calls_total){.*/Embed\"} (\S+)$", text, re.M
        )
        return int(sum(map(float, counts)))

    def niceness(self) -> list[int]:
        """Niceness of each of its threads; Linux only."""
        found = []
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            # A thread may end meanwhile.
            with suppress(ProcessLookupError):
                found.append(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
        return found


def _environment(settings: EmbedderSettings) -> dict[str, str]:
    store = ObjectStoreSettings(**settings.model_dump())
    secret = store.s3_secret_key.get_secret_value()
    ours = store.model_dump() | {"s3_secret_key": secret}
    ours |= {"cache_dir": settings.cache_dir, "engine_threads": 1, "decode_processes": 2}
    return {f"MAGFACE_{name.upper()}": str(value) for name, value in ours.items()}
