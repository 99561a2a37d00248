"""Protocol of inference sessions: from aligned crops to features."""

from collections.abc import Callable
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptData, InvalidInput
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import ChannelOrder

Engine = Literal["onnxruntime", "torch"]
Device = Literal["cpu", "cuda", "cuda-fp16"]

# The fastest batch size of onnxruntime for an iResNet-18 on a CPU (`make bench-serving`, section
# engine); with larger batches the activations do not fit into the caches.
CPU_BATCH_IMAGES: Final = 8


class Session(Protocol):
    """A network that is ready to run. Any thread may call it, but only one at a time.

    The ``batch_images`` of a session is the largest number of images in one run of the network.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def device(self) -> Device: ...

    @property
    def embedding_size(self) -> int: ...

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features; their direction is the embedding, their norm the magnitude.

        Args:
            crops: uint8 [N, 112, 112, 3], N >= 1, aligned, BGR for every network; more than
                ``batch_images`` are computed in several runs of the network.

        Returns:
            float32 [N, embedding_size], not normalized and not checked.

        Raises:
            InvalidInput: If the crops have another shape or dtype.
        """
        ...


def check_crops(crops: NDArray[np.uint8]) -> None:
    """Check the shape and dtype of crops; an engine would accept an empty batch, for example.

    Raises:
        InvalidInput: If the crops are not uint8 [N, 112, 112, 3] with N >= 1.
    """
    if crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3) or len(crops) == 0:
        raise InvalidInput(
            "crops",
            f"{crops.dtype} {list(crops.shape)} instead of uint8 [N, 112, 112, 3] with N >= 1",
        )


def run_in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    crops: NDArray[np.uint8],
    batch_images: int | None,
) -> NDArray[np.float32]:
    """Run a network on crops in batches of limited size.

    Args:
        run: Runs the network, from uint8 [N, 112, 112, 3] to float32 [N, D].
        crops: uint8 [N, 112, 112, 3], N >= 1.
        batch_images: Most images in one run; no limit when None.

    Returns:
        float32 [N, D].
    """
    if batch_images is None or len(crops) <= batch_images:
        return run(crops)
    starts = range(0, len(crops), batch_images)
    return np.concatenate([run(crops[start : start + batch_images]) for start in starts])


def network_input(
    crops: NDArray[np.uint8], channel_order: ChannelOrder, scale: float = 1 / 255
) -> NDArray[np.float32]:
    """Convert crops to the input of a network.

    Args:
        crops: uint8, shape (N, 112, 112, 3), BGR.
        channel_order: Channel order that the network was trained with.
        scale: Factor for each pixel.

    Returns:
        float32, contiguous, shape (N, 3, 112, 112).
    """
    if channel_order == "rgb":
        crops = crops[..., ::-1]
    planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    return np.multiply(planes, np.float32(scale), dtype=np.float32)


def split_features(
    raw: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split features into embeddings and magnitudes (MagFace, section 3: a = |f|).

    Args:
        raw: float32 [N, D], the output of a session.

    Returns:
        Unit embeddings, float32 [N, D], and magnitudes, float32 [N].

    Raises:
        CorruptData: If a row is zero or not finite; names the first such row.
    """
    wide = raw.astype(np.float64)
    norms = np.sqrt(np.vecdot(wide, wide))
    magnitudes = norms.astype(np.float32)
    usable = np.isfinite(magnitudes) & (magnitudes > 0)
    if not usable.all():
        bad = np.flatnonzero(~usable)
        row = int(bad[0])
        what = "all zeros" if norms[row] == 0 else "NaN or infinity"
        raise CorruptData(
            f"row {row}: the network's output is {what} "
            f"({bad.size} of {len(raw)} rows are unusable)"
        )
    return (wide / norms[:, None]).astype(np.float32), magnitudes
