"""Embed many images as fast as the engine goes: decoding never makes it wait."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.errors import CorruptData
from shared.model.faces import Alignment, FaceImage, FaceReader
from shared.model.session import Session, split_features

# Batches decoded ahead of the engine; more would only hold memory.
_AHEAD = 4


@dataclass(frozen=True)
class EmbeddedSet:
    """What the network says of each distinct image of a set.

    Attributes:
        embeddings: float32 [N, D], unit length.
        magnitudes: float32 [N].
        mirrored: float32 [N, D], unit length: direction of the sum of the features of the
            image and of its mirror image, as InsightFace's scripts have it; None unless
            asked for.
        images_per_second: Decoding included.
    """

    embeddings: NDArray[np.float32]
    magnitudes: NDArray[np.float32]
    mirrored: NDArray[np.float32] | None
    images_per_second: float


def embed_set(
    session: Session,
    pair_set: PairSet,
    reader: FaceReader,
    *,
    alignment: Alignment = "unspecified",
    batch_size: int = 32,
    mirror: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> EmbeddedSet:
    """Embed each distinct image of a set once.

    Memory is bounded by the embeddings and a few batches of crops.

    Args:
        session: The network.
        pair_set: Whose images.
        reader: Decodes and aligns.
        alignment: How the faces lie in the images.
        batch_size: Images a run of the network.
        mirror: Embed the mirror images too.
        progress: Called after each batch with the number of images done in it.

    Raises:
        InvalidInput: If an image cannot be read; names it.
        CorruptData: If the network gives no usable output for an image; names it.
    """
    started = time.perf_counter()
    features: list[NDArray[np.float32]] = []
    flipped: list[NDArray[np.float32]] = []
    for crops in _decoded_batches(pair_set, reader, alignment, batch_size):
        features.append(session.run(crops))
        if mirror:
            flipped.append(session.run(np.ascontiguousarray(crops[:, :, ::-1])))
        progress(len(crops))
    seconds = time.perf_counter() - started
    raw = np.concatenate(features)
    embeddings, magnitudes = _split(raw, pair_set)
    mirrored = _split(raw + np.concatenate(flipped), pair_set)[0] if mirror else None
    return EmbeddedSet(embeddings, magnitudes, mirrored, len(pair_set.images) / seconds)


def _split(
    raw: NDArray[np.float32], pair_set: PairSet
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    usable = np.isfinite(raw).all(axis=1) & raw.any(axis=1)
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        raise CorruptData(
            f"the network gives no usable output for {pair_set.name(bad)} "
            f"({int((~usable).sum())} of {len(raw)} images)"
        )
    return split_features(raw)


def _decoded_batches(
    pair_set: PairSet, reader: FaceReader, alignment: Alignment, batch_size: int
) -> Iterator[NDArray[np.uint8]]:
    def decode(start: int) -> NDArray[np.uint8]:
        batch = range(start, min(start + batch_size, len(pair_set.images)))
        return np.stack(
            [
                reader.crop(FaceImage(pair_set.data(image), alignment), pair_set.name(image))
                for image in batch
            ]
        )

    starts = iter(range(0, len(pair_set.images), batch_size))
    # One thread: decoding is some hundred times cheaper than the network.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
        ahead: list[Future[NDArray[np.uint8]]] = [
            pool.submit(decode, start) for start in islice(starts, _AHEAD)
        ]
        try:
            while ahead:
                yield ahead.pop(0).result()
                ahead += [pool.submit(decode, start) for start in islice(starts, 1)]
        finally:
            for future in ahead:
                future.cancel()
