"""Composition of the embedder: builds its parts and runs its background tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from magface.v1 import embedder_pb2_grpc

from services.embedder import metrics
from services.embedder.embedding.cache import EmbeddingCache
from services.embedder.embedding.service import FaceEmbedder
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import deliver_on
from services.embedder.models.cache_pruner import CachePruner
from services.embedder.models.loader import Loader
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import VersionThreads
from services.embedder.rollout.heartbeat import Heartbeat
from services.embedder.rollout.last_served import LastServed
from services.embedder.rollout.newest_pointer import NewestPointer
from services.embedder.rollout.registry_watch import ErasureWatcher, watch
from services.embedder.rollout.shadow import ShadowEvaluator
from services.embedder.rollout.swapper import Swapper
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from shared.decoding.admission import Admission
from shared.decoding.pool import DecodePool
from shared.decoding.settings import pixels_in_flight
from shared.errors import AccessRefused, MagFaceError, PreconditionFailed, details_of
from shared.files import make_folder
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.factory import require_device
from shared.model.sessions.onnx import threads_shared
from shared.registry.erasure_mark import read_erasure_generation
from shared.registry.serving_pointer import ServingPointer, read_pointer
from shared.registry.shadow_pointer import read_shadow
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import Build
from shared.rpc.server.watchdog import end_within
from shared.runtime import end_task, repeat
from shared.storage.objects import ObjectStore

_log = logging.getLogger(__name__)
SERVICE_NAME = "magface.v1.EmbedderService"
# A request to a hanging store must end soon: a new pointer is to serve within two seconds.
_POINTER_TIMEOUT_S = 1.0
# With fewer images unanswered, a stream waits for the caller's round trip when batches are small.
_MIN_STREAM_IMAGES = 64
# Pause between two looks at the engine, in seconds.
_LOOK_EVERY_S = 5.0


def embedder(settings: EmbedderSettings) -> Build:
    """Make the function with which `run_server` builds the service.

    Raises:
        PreconditionFailed: If the engine, the device, the detector's model or the cache folder is
            not available.
    """
    require_device(settings.engine, settings.device)
    make_folder(settings.cache_dir, "MAGFACE_CACHE_DIR")
    reader = FaceReader(settings)

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        deliver = deliver_on(asyncio.get_running_loop())
        pool = DecodePool(settings)
        pipeline = Pipeline(reader, pool, settings.batch_images, deliver)
        admission = Admission(settings.max_images, settings.max_bytes, pixels_in_flight(settings))
        metrics.IMAGES_IN_FLIGHT.set_function(lambda: admission.images)
        cache = EmbeddingCache(settings.cache_bytes)
        models = ResidentModels()
        pointers, loader = _pointers(settings), _loader(settings)
        await _check_access(pointers)
        swapper = _swapper(settings, models, pointers, loader)
        shadow = ShadowEvaluator(
            models,
            pool,
            partial(loader.load, low_priority=True),
            admission.idle,
            settings.shadow_share,
            threads=loader.version_threads,
        )
        erasures = ErasureWatcher(cache.clear, shadow.clear)
        pruner = CachePruner(loader.versions, partial(_in_use, models, swapper, shadow))
        heartbeat = Heartbeat(pointers, models, swapper, shadow)
        faces = FaceEmbedder(models, pipeline, admission, cache, shadow.offer)
        # One batch that is computed and one that waits.
        max_unanswered = max(2 * settings.batch_images, _MIN_STREAM_IMAGES)
        open_stream = partial(
            faces.open_stream, max_unanswered, lifecycle.stream_budget, lifecycle.stopping
        )
        servicer = EmbedderServicer(faces, open_stream, models, swapper, shadow)
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
        await asyncio.to_thread(loader.versions.remove_partials)
        pool.start()
        pipeline.start()
        interval = settings.poll_interval_s
        jobs: tuple[Coroutine[Any, Any, None], ...] = (
            swapper.run(),
            shadow.run(),
            watch(
                "erasure mark",
                partial(read_erasure_generation, pointers),
                erasures.update,
                interval,
            ),
            watch("shadow pointer", partial(read_shadow, pointers), shadow.update, interval),
            repeat("removal of old model versions", pruner.prune, interval),
            heartbeat.run(interval),
            _set_ready_when_loaded(swapper, lifecycle),
            repeat(
                "look at the engine",
                partial(_end_if_stuck, pipeline, settings.run_timeout_s),
                min(_LOOK_EVERY_S, settings.run_timeout_s),
            ),
        )
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                await end_task(task)
            await asyncio.to_thread(pool.stop)
            await pipeline.stop()

    return build


async def _check_access(objects: ObjectStore) -> None:
    """End the start if the object store refuses the keys; whether it answers does not matter.

    Raises:
        PreconditionFailed: If it refuses them.
    """
    try:
        await asyncio.to_thread(read_pointer, objects)
    except AccessRefused as error:
        raise PreconditionFailed(str(error), detail=details_of(error)) from None
    except MagFaceError as error:
        _log.warning("the object store is not usable yet: %s", error)


def _pointers(settings: EmbedderSettings) -> ObjectStore:
    timeout = min(settings.s3_timeout_s, _POINTER_TIMEOUT_S)
    hasty = settings.model_copy(update={"s3_timeout_s": timeout})
    return SignedObjects(hasty, trusted=settings.model_jwks)


def _local_copies(settings: EmbedderSettings) -> Path:
    """Folder of the local copies; those whose signatures were not looked at stay apart."""
    return settings.cache_dir / "signed" if settings.model_jwks else settings.cache_dir


def _loader(settings: EmbedderSettings) -> Loader:
    return Loader(
        VersionStore(SignedObjects(settings, trusted=settings.model_jwks), _local_copies(settings)),
        VersionThreads(),
        settings.load_timeout_s,
        settings.engine,
        settings.device,
        settings.engine_threads,
        settings.batch_images,
    )


def _swapper(
    settings: EmbedderSettings,
    models: ResidentModels,
    pointers: ObjectStore,
    loader: Loader,
) -> Swapper:
    async def load(version: str, background: bool) -> LoadedModel:
        # Without shared threads the session would keep the priority of the thread that opens it.
        return await loader.load(version, low_priority=background and threads_shared())

    read: Callable[[], ServingPointer | None] = partial(read_pointer, pointers)
    folder = _local_copies(settings)
    if settings.model_jwks is not None:
        read = NewestPointer(read, folder / "newest-generation").read
    return Swapper(
        models,
        read,
        load,
        last_served=LastServed(folder / "last-served"),
        interval_s=settings.poll_interval_s,
    )


def _in_use(models: ResidentModels, swapper: Swapper, shadow: ShadowEvaluator) -> set[str]:
    if models.serving is None:
        return set()
    others = swapper.pending_version, shadow.stats.model_version
    return {*models.versions, *filter(None, others)}


async def _set_ready_when_loaded(swapper: Swapper, lifecycle: Lifecycle) -> None:
    await swapper.ready.wait()
    await lifecycle.set_ready(True)


async def _end_if_stuck(pipeline: Pipeline, limit_s: float) -> None:
    if (running := pipeline.seconds_in_run) < limit_s:
        return
    _log.critical(
        "the network has been running for %.0f s on one batch, more than MAGFACE_RUN_TIMEOUT_S;"
        " the process ends, so that it can be started again",
        running,
    )
    end_within(0)
