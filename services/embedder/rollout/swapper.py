"""Swaps of the serving version and operating point: follows the registry's serving pointer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from services.embedder import metrics
from services.embedder.models.decision_rule import FmrTarget
from services.embedder.models.malloc import release
from services.embedder.models.resident import ActiveModel, LoadedModel, ResidentModels
from services.embedder.rollout.last_served import LastServed, VersionAtTarget
from services.embedder.rollout.retries import describe_failure, retry_pause_s
from shared.errors import MagFaceError, Unavailable
from shared.registry.serving_pointer import ServingPointer
from shared.runtime import repeat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LoadFailure:
    reason: str
    attempts: int
    retry_at: float


class Swapper:
    """Loads the version that the serving pointer names, and lets it serve at its operating point.

    A version is loaded beside the serving one, which goes on serving, at its old operating point,
    if anything fails. The previous version stays loaded, so that a rollback to it takes no time.
    Another operating point of the serving version is taken up at once.

    Args:
        models: The loaded models.
        read_pointer: Reads the serving pointer; None before the first promotion. Blocks.
        load: Loads a version; with True in the background of requests. Cancelling ends that.
        last_served: What served last, for a start without the store.
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
        self._followed: ServingPointer | None = None
        self._served_before: VersionAtTarget | None = None
        self._recording = asyncio.Lock()
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
        """Generation of the pointer whose version and operating point are in force; 0 if others."""
        pointer = self._pointer
        return pointer.generation if pointer is not None and pointer == self._followed else 0

    @property
    def swap_error(self) -> str:
        """Error of the last attempt to load the pending version; empty when there was none."""
        failure = self._failures.get(self.pending_version)
        return failure.reason if failure else ""

    async def run(self) -> NoReturn:
        """Follow the serving pointer until cancelled."""
        self._served_before = await asyncio.to_thread(self._last_served.read)
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
        pointer = self._pointer
        found = self._models.find(pointer.model_version) if pointer else None
        if pointer is not None and found is not None and pointer != self._followed:
            await self._serve(found.model, _target_of(pointer), pointer)
        elif self._loading is None or self._loading.done():
            self._load_next()

    def _load_next(self) -> None:
        pointer, before = self._pointer, self._served_before
        candidates: list[VersionAtTarget] = []
        if pointer is not None:
            candidates.append(VersionAtTarget(pointer.model_version, _target_of(pointer)))
        if self._models.serving is None and before is not None:
            candidates.append(before)
        for candidate in candidates:
            version = candidate.model_version
            if version != self._models.serving_version and self._is_due(version):
                self._loading = asyncio.create_task(self._load_version(version, candidate.target))
                return

    def _is_due(self, version: str) -> bool:
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.retry_at

    async def _load_version(self, version: str, target: FmrTarget) -> None:
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
        pointer = self._pointer
        if pointer is not None and pointer.model_version == version:
            await self._serve(model, _target_of(pointer), pointer)
        elif self._models.serving is None:
            await self._serve(model, target, None)

    async def _serve(
        self, model: LoadedModel, target: FmrTarget, followed: ServingPointer | None
    ) -> None:
        """Let a model serve at an operating point, in one step of the loop."""
        before = self._models.serving
        self._followed = followed
        if before is not None and (before.model, before.rule.target) == (model, target):
            return
        released = [self._models.serve(model, target)]
        self.ready.set()
        if before is None or before.model is not model:
            metrics.SWAPS.labels("done").inc()
        _report(self._models.resolve())
        await self._record_served()
        await asyncio.to_thread(release, released)

    async def _record_served(self) -> None:
        # One after the other, so that an older state does not replace a newer one.
        async with self._recording:
            serving = self._models.resolve()
            served = VersionAtTarget(serving.version, serving.rule.target)
            # On a thread, because it syncs the disk.
            await asyncio.to_thread(self._last_served.write, served)

    def _record_failure(self, version: str, error: Exception) -> None:
        metrics.SWAPS.labels("failed").inc()
        before = self._failures.get(version)
        attempts = before.attempts + 1 if before else 1
        delay = retry_pause_s(error, attempts)
        # While the store is unreachable, loading is retried at every step: once it is back, a swap
        # must not take more than two seconds.
        retry_at = 0.0 if isinstance(error, Unavailable) else time.monotonic() + delay
        reason = describe_failure(error)
        self._failures[version] = _LoadFailure(reason, attempts, retry_at)
        _log.error(
            "cannot load model version %s; the serving version stays, and loading is retried: %s",
            version,
            error,
            exc_info=None if isinstance(error, MagFaceError) else error,
        )


def _target_of(pointer: ServingPointer) -> FmrTarget:
    return FmrTarget(pointer.target_fmr, pointer.prior)


def _report(serving: ActiveModel) -> None:
    version, rule = serving.version, serving.rule
    target, kept = rule.target.target_fmr, rule.kept_fmr
    metrics.SERVING.clear()
    metrics.SERVING.labels(version).set(1)
    metrics.TARGET_FMR.set(target or 0)
    metrics.KEPT_FMR.set(kept or 0)
    _log.info("model version %s serves now, at threshold %.4f", version, rule.threshold)
    if target is None:
        return
    if kept is None:
        _log.warning(
            "model version %s has no measured operating curve: it serves at its own threshold, and "
            "the target false-match rate of %g is not kept",
            version,
            target,
        )
    elif kept > target:
        _log.warning(
            "model version %s keeps a false-match rate of %g instead of the target of %g: its "
            "evidence resolves no lower one",
            version,
            kept,
            target,
        )
