"""Settings of the embedder."""

from pathlib import Path
from typing import Any

from pydantic import Field

from shared.decoding.settings import DecodingSettings, memory_share, upload_share
from shared.model.sessions.base import CPU_BATCH_IMAGES, Device, Engine
from shared.model.sessions.cpu import cpu_threads
from shared.settings import RegistrySettings, ServerSettings

MAX_IMAGES_PER_CALL = 64
_GPU_BATCH_IMAGES = 32


def _fastest_batch(settings: dict[str, Any]) -> int:
    return CPU_BATCH_IMAGES if settings["device"] == "cpu" else _GPU_BATCH_IMAGES


def _memory_share(settings: dict[str, Any]) -> int:
    return memory_share(settings["memory_bytes"])


class EmbedderSettings(ServerSettings, RegistrySettings, DecodingSettings):
    """Settings of the embedder, each an environment variable ``MAGFACE_…``.

    Attributes:
        engine: Runs the network.
        device: Of the engine; the embedder does not start without it.
        engine_threads: CPU threads of the engine; by default the CPUs of the cgroup's quota.
        batch_images: Most images in one batch. A batch is one run of the network; a call with more
            images is computed in several runs. By default 8 on a CPU, where larger batches are
            slower, and 32 on a GPU.
        max_images: Images in flight at which calls are refused: by default one and a half batches
            of a GPU, six of a CPU. An admitted call waits for these images at most.
        upload_bytes: See `ServerSettings`; by default an eighth of `memory_bytes`.
        max_bytes: Most bytes of encoded pictures in flight, above which calls are refused; by
            default a sixteenth of `memory_bytes`.
        cache_bytes: Memory for cached embeddings, by default a sixteenth of `memory_bytes`; 0
            turns the cache off.
        shadow_share: Share of the comparisons on which a shadow candidate is evaluated, 0..1.
        cache_dir: Folder for local copies of model versions, for a start without the store.
        poll_interval_s: Seconds between two readings of the registry's pointers.
        load_timeout_s: Longest time to open a model version, check it and warm it up, in seconds.
            A version that takes longer is refused.
        run_timeout_s: Longest time of one run of the network, in seconds. The process ends after
            it, because no thread can be ended alone.
    """

    engine: Engine = "onnxruntime"
    device: Device = "cpu"
    engine_threads: int = Field(default_factory=cpu_threads, ge=1)
    batch_images: int = Field(default_factory=_fastest_batch, ge=1)
    max_images: int = Field(default=48, ge=2)
    upload_bytes: int = Field(default_factory=upload_share, ge=2**20)
    max_bytes: int = Field(default_factory=_memory_share, ge=2**20)
    cache_bytes: int = Field(default_factory=_memory_share, ge=0)
    shadow_share: float = Field(default=0.1, ge=0, le=1)
    cache_dir: Path = Path("embedder-cache")
    poll_interval_s: float = Field(default=0.5, gt=0)
    load_timeout_s: float = Field(default=120.0, gt=0)
    run_timeout_s: float = Field(default=120.0, gt=0)
