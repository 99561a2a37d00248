"""Follows the registry: loads the version it asks for and lets it serve."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from services.embedder import metrics
from services.embedder.models.malloc import let_go
from services.embedder.models.resident import LoadedModel, ResidentModels
from shared.errors import MagFaceError, Unavailable
from shared.files import write_atomically
from shared.registry.serving_pointer import ServingPointer

_log = logging.getLogger(__name__)
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


@dataclass(frozen=True)
class _Failure:
    why: str
    delay_s: float
    retry_at: float


class LastServed:
    """Remembers on disk which version served last, for a start without the store.

    Args:
        path: A small text file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        try:
            return self._path.read_text().strip() or None
        except FileNotFoundError:
            return None

    def write(self, model_version: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, model_version)
        except OSError as error:
            _log.warning("a start without the store will not find %s: %s", model_version, error)


class Swapper:
    """Lets the version serve that the registry names.

    A version is loaded beside the serving one; whatever fails, that one goes on
    serving. The one before stays loaded, so that going back to it takes no time.

    Args:
        models: What is loaded; flips.
        read_pointer: Says what should serve; None before the first decision. Blocks.
        load: Makes a version ready to compute. Blocks.
        background: Where it does so beside a version that serves.
        last_served: What served last time.
        interval_s: Seconds between two looks at the pointer.
    """

    def __init__(
        self,
        models: ResidentModels,
        read_pointer: Callable[[], ServingPointer | None],
        load: Callable[[str], LoadedModel],
        *,
        background: Executor,
        last_served: LastServed,
        interval_s: float,
    ) -> None:
        self._models = models
        self._read_pointer = read_pointer
        self._load = load
        self._background = background
        self._last_served = last_served
        self._interval_s = interval_s
        self._pointer: ServingPointer | None = None
        self._failures: dict[str, _Failure] = {}
        self._loading: asyncio.Task[None] | None = None
        self._reachable: bool | None = None
        self.ready = asyncio.Event()

    @property
    def pending_version(self) -> str:
        """What the registry asks for and does not serve yet; empty when that is nothing."""
        wanted = self._wanted
        return wanted if wanted and wanted != self._models.serving_version else ""

    @property
    def generation(self) -> int:
        """Which decision the serving version follows; 0 when it follows none, or not yet."""
        pointer = self._pointer
        return pointer.generation if pointer is not None and not self.pending_version else 0

    @property
    def swap_error(self) -> str:
        """Why the last attempt to load the pending version failed; empty when none did."""
        failure = self._failures.get(self.pending_version)
        return failure.why if failure else ""

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            try:
                await self._look()
                await self._advance()
            except Exception:
                _log.exception("could not follow the registry; going on with what is loaded")
            await asyncio.sleep(self._interval_s)

    @property
    def _wanted(self) -> str | None:
        return self._pointer.model_version if self._pointer else None

    async def _look(self) -> None:
        try:
            pointer = await asyncio.to_thread(self._read_pointer)
        except Exception as error:
            self._note_reachable(error)
            return
        self._note_reachable(None)
        if pointer is not None and pointer != self._pointer:
            # A new decision is tried at once, however often the last one failed.
            self._pointer, self._failures = pointer, {}

    def _note_reachable(self, error: Exception | None) -> None:
        reachable = error is None
        metrics.REGISTRY_REACHABLE.set(reachable)
        if reachable != self._reachable:
            self._reachable = reachable
            if error is not None:
                _log.warning("going on with what is loaded; the registry cannot be read: %s", error)
            else:
                _log.info("the registry can be read")

    async def _advance(self) -> None:
        metrics.SWAP_FAILING.set(bool(self.swap_error))
        wanted = self._wanted
        model = self._models.find(wanted) if wanted else None
        if model is not None and wanted != self._models.serving_version:
            await self._flip(model)
        elif self._loading is None or self._loading.done():
            self._load_next()

    def _load_next(self) -> None:
        candidates = [self._wanted]
        if self._models.serving is None:
            candidates.append(self._last_served.read())
        for version in candidates:
            if version and version != self._models.serving_version and self._is_due(version):
                self._loading = asyncio.create_task(self._bring(version))
                return

    def _is_due(self, version: str) -> bool:
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.retry_at

    async def _bring(self, version: str) -> None:
        # The first one has nothing to give way to.
        executor = self._background if self._models.serving else None
        loop = asyncio.get_running_loop()
        try:
            model = await loop.run_in_executor(executor, self._load, version)
        except Exception as error:
            self._note_failure(version, error)
            return
        self._failures.pop(version, None)
        # The registry may have changed its mind while this one was loading.
        if version == self._wanted or self._models.serving is None:
            await self._flip(model)

    async def _flip(self, model: LoadedModel) -> None:
        no_more = [self._models.flip(model)]
        self.ready.set()
        metrics.SWAPS.labels("done").inc()
        metrics.SERVING.clear()
        metrics.SERVING.labels(model.version).set(1)
        _log.info("model version %s serves now", model.version)
        # It syncs the disk.
        await asyncio.to_thread(self._last_served.write, model.version)
        await asyncio.to_thread(let_go, no_more)

    def _note_failure(self, version: str, error: Exception) -> None:
        metrics.SWAPS.labels("failed").inc()
        before = self._failures.get(version)
        delay = min(before.delay_s * 2, _LAST_RETRY_S) if before else _FIRST_RETRY_S
        # Once the store is back, two seconds are allowed to catch up: try at every look.
        retry_at = 0.0 if isinstance(error, Unavailable) else time.monotonic() + delay
        self._failures[version] = _Failure(f"{type(error).__name__}: {error}", delay, retry_at)
        _log.error(
            "model version %s cannot be loaded, nothing was changed",
            version,
            exc_info=None if isinstance(error, MagFaceError) else error,
        )
