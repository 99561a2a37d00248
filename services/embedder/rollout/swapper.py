"""Swaps of the serving version: follows the registry's serving pointer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from services.embedder import metrics
from services.embedder.models.malloc import release
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.rollout.retries import retry_pause_s
from shared.errors import MagFaceError, Unavailable
from shared.files import write_atomically
from shared.registry.serving_pointer import ServingPointer
from shared.runtime import repeat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LoadFailure:
    reason: str
    attempts: int
    retry_at: float


class LastServed:
    """Keeps the name of the last serving version on disk, for a start without the store.

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
            _log.warning(
                "cannot write %s; a start without the store will not serve %s: %s",
                self._path,
                model_version,
                error,
            )


class Swapper:
    """Loads the version that the serving pointer names, and lets it serve.

    A version is loaded beside the serving one, which goes on serving if anything fails. The
    previous version stays loaded, so that a rollback to it takes no time.

    Args:
        models: The loaded models.
        read_pointer: Reads the serving pointer; None before the first promotion. Blocks.
        load: Loads a version; with True in the background of requests. Cancelling ends that.
        last_served: Name of the last serving version.
        interval_s: Seconds between two readings of the pointer.
    """

    def __init__(
        self,
        models: ResidentModels,
        read_pointer: Callable[[], ServingPointer | None],
        load: Callable[[str, bool], Awaitable[LoadedModel]],
        *,
        last_served: LastServed,
        interval_s: float,
    ) -> None:
        self._models = models
        self._read_pointer = read_pointer
        self._load = load
        self._last_served = last_served
        self._interval_s = interval_s
        self._pointer: ServingPointer | None = None
        self._failures: dict[str, _LoadFailure] = {}
        self._loading: asyncio.Task[None] | None = None
        self._loading_version: str | None = None
        self._reachable: bool | None = None
        self.ready = asyncio.Event()

    @property
    def pending_version(self) -> str:
        """The version that the pointer names and that does not serve yet; empty when none."""
        wanted = self._wanted
        return wanted if wanted and wanted != self._models.serving_version else ""

    @property
    def generation(self) -> int:
        """Generation of the pointer that the serving version follows; 0 when it follows none."""
        pointer = self._pointer
        return pointer.generation if pointer is not None and not self.pending_version else 0

    @property
    def swap_error(self) -> str:
        """Error of the last attempt to load the pending version; empty when there was none."""
        failure = self._failures.get(self.pending_version)
        return failure.reason if failure else ""

    async def run(self) -> NoReturn:
        """Follow the serving pointer until cancelled."""
        await repeat("swap of the serving version", self._step, self._interval_s)

    async def _step(self) -> None:
        await self._update_pointer()
        await self._advance()

    @property
    def _wanted(self) -> str | None:
        return self._pointer.model_version if self._pointer else None

    async def _update_pointer(self) -> None:
        try:
            pointer = await asyncio.to_thread(self._read_pointer)
        except Exception as error:
            self._record_reachability(error)
            return
        self._record_reachability(None)
        if pointer is not None and pointer != self._pointer:
            # A new promotion is tried at once, even of a version that failed before.
            self._pointer, self._failures = pointer, {}
            if self._loading is not None and self._loading_version not in (
                *(None, pointer.model_version),
            ):
                # What is not wanted any more must not delay what is, above all if it hangs.
                self._loading.cancel()

    def _record_reachability(self, error: Exception | None) -> None:
        reachable = error is None
        metrics.REGISTRY_REACHABLE.set(reachable)
        if reachable != self._reachable:
            self._reachable = reachable
            if error is not None:
                _log.warning(
                    "cannot read the serving pointer; the loaded version goes on serving: %s",
                    error,
                )
            else:
                _log.info("the serving pointer can be read")

    async def _advance(self) -> None:
        metrics.SWAP_FAILING.set(bool(self.swap_error))
        wanted = self._wanted
        model = self._models.find(wanted) if wanted else None
        if model is not None and wanted != self._models.serving_version:
            await self._swap_to(model)
        elif self._loading is None or self._loading.done():
            self._load_next()

    def _load_next(self) -> None:
        candidates = [self._wanted]
        if self._models.serving is None:
            candidates.append(self._last_served.read())
        for version in candidates:
            if version and version != self._models.serving_version and self._is_due(version):
                self._loading = asyncio.create_task(self._load_version(version))
                return

    def _is_due(self, version: str) -> bool:
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.retry_at

    async def _load_version(self, version: str) -> None:
        self._loading_version = version
        try:
            # The first load has no requests beside it, and may take all of the processor.
            model = await self._load(version, self._models.serving is not None)
        except Exception as error:
            self._record_failure(version, error)
            return
        finally:
            self._loading_version = None
        self._failures.pop(version, None)
        # The pointer may have changed while this version was loading.
        if version == self._wanted or self._models.serving is None:
            await self._swap_to(model)

    async def _swap_to(self, model: LoadedModel) -> None:
        released = [self._models.serve(model)]
        self.ready.set()
        metrics.SWAPS.labels("done").inc()
        metrics.SERVING.clear()
        metrics.SERVING.labels(model.version).set(1)
        _log.info("model version %s serves now", model.version)
        # On a thread, because it syncs the disk.
        await asyncio.to_thread(self._last_served.write, model.version)
        await asyncio.to_thread(release, released)

    def _record_failure(self, version: str, error: Exception) -> None:
        metrics.SWAPS.labels("failed").inc()
        before = self._failures.get(version)
        attempts = before.attempts + 1 if before else 1
        delay = retry_pause_s(error, attempts)
        # While the store is unreachable, loading is retried at every step: once it is back, a swap
        # must not take more than two seconds.
        retry_at = 0.0 if isinstance(error, Unavailable) else time.monotonic() + delay
        reason = f"{type(error).__name__}: {error}"
        self._failures[version] = _LoadFailure(reason, attempts, retry_at)
        _log.error(
            "cannot load model version %s; the serving version stays, and loading is retried: %s",
            version,
            error,
            exc_info=None if isinstance(error, MagFaceError) else error,
        )
