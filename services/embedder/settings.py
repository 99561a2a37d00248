"""What the embedder takes from the environment."""

from pathlib import Path
from typing import Any

from pydantic import Field

from shared.model.sessions.base import CPU_BATCH_IMAGES, Device, Engine
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits, ObjectStoreSettings, ServerSettings

MAX_IMAGES_A_CALL = 64
_GPU_BATCH_IMAGES = 32


def _fastest_batch(settings: dict[str, Any]) -> int:
    return CPU_BATCH_IMAGES if settings["device"] == "cpu" else _GPU_BATCH_IMAGES


class EmbedderSettings(ServerSettings, ObjectStoreSettings, ImageLimits):
    """Settings of the embedder, each as ``MAGFACE_…``.

    Attributes:
        engine: What computes.
        device: Where; one that is not there is an error at the start.
        engine_threads: CPU threads of the engine; the CPUs of the cgroup's quota by default.
        decode_threads: Threads that decode pictures; as many by default.
        batch_images: Most images in one batch, which is one run of the network; 8 by default on
            a CPU, where more are slower, and 32 on a GPU. A call with more is computed in several
            runs.
        max_images: Images in flight from which on calls are refused: one and a half batches of
            a GPU, six of a CPU. Who is let in waits for no more than these.
        max_bytes: Bytes of encoded pictures in flight, from which on calls are refused.
        cache_bytes: Memory for embeddings of images that may come again; 0 keeps none.
        shadow_share: Of the comparisons that a candidate in the shadow tries as well, 0..1.
        cache_dir: Local copies of model versions, for a start without the store.
        poll_interval_s: Seconds between two looks at what should serve.
    """

    engine: Engine = "onnxruntime"
    device: Device = "cpu"
    engine_threads: int = Field(default_factory=cpu_threads, ge=1)
    decode_threads: int = Field(default_factory=cpu_threads, ge=1)
    batch_images: int = Field(default_factory=_fastest_batch, ge=1)
    max_images: int = Field(default=48, ge=2)
    max_bytes: int = Field(default=256 * 2**20, ge=2**20)
    cache_bytes: int = Field(default=256 * 2**20, ge=0)
    shadow_share: float = Field(default=0.1, ge=0, le=1)
    cache_dir: Path = Path("embedder-cache")
    poll_interval_s: float = Field(default=0.5, gt=0)
