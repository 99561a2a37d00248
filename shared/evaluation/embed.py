"""Embedding of the images of a pair set, with decoding in parallel to inference."""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.errors import CorruptData, InvalidInput
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.cpu import cpu_threads

CropReader = Callable[[int], NDArray[np.uint8]]
"""From the index of an image in a pair set to its aligned crop, uint8 (112, 112, 3) BGR."""

# Batches decoded ahead of the engine; more would only use memory.
_BATCHES_AHEAD = 4
_NICENESS = 10


@dataclass(frozen=True)
class EmbeddedSet:
    """Output of the network for each distinct image of a pair set.

    Attributes:
        embeddings: float32 [N, D], unit length.
        magnitudes: float32 [N].
        mirrored: float32 [N, D], unit length: direction of the sum of the features of the
            image and of its mirror image, as in InsightFace's scripts; None unless
            requested.
        images_per_second: Throughput, including decoding.
    """

    embeddings: NDArray[np.float32]
    magnitudes: NDArray[np.float32]
    mirrored: NDArray[np.float32] | None
    images_per_second: float

    def select(self, images: Sequence[int]) -> "EmbeddedSet":
        """Return the output for some of the images, by their indices."""
        rows = list(images)
        return replace(
            self,
            embeddings=self.embeddings[rows],
            magnitudes=self.magnitudes[rows],
            mirrored=None if self.mirrored is None else self.mirrored[rows],
        )


class UsableSet(NamedTuple):
    """A pair set without the images that cannot be used.

    Attributes:
        embedded: Output for the images of `pair_set`.
        pair_set: The pairs whose two images can be used.
        unusable: Why each of the other images cannot be used, in the order of the given set;
            names the image.
    """

    embedded: EmbeddedSet
    pair_set: PairSet
    unusable: tuple[InvalidInput, ...]


def embed_usable(
    session: Session,
    pair_set: PairSet,
    crops: CropReader,
    *,
    mirror: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> UsableSet:
    """Embed the images of a pair set, and leave out those that cannot be read; see `embed_set`.

    Raises:
        InvalidInput: If no pair has two usable images; names the first unusable image.
        CorruptData: If the output for an image is NaN or zero; names the image.
    """
    unusable: dict[int, InvalidInput] = {}
    embedded = embed_set(
        session, pair_set, crops, mirror=mirror, progress=progress, unusable=unusable
    )
    if not unusable:
        return UsableSet(embedded, pair_set, ())
    errors = tuple(unusable[image] for image in sorted(unusable))
    try:
        remaining, images = pair_set.without(unusable)
    except InvalidInput as error:
        raise InvalidInput(
            error.field,
            f"{error.reason}: {len(errors)} of {len(pair_set.images)} images cannot; "
            f"the first is {errors[0]}",
        ) from error
    return UsableSet(embedded.select(images), remaining, errors)


def embed_set(
    session: Session,
    pair_set: PairSet,
    crops: CropReader,
    *,
    batch_size: int = 32,
    mirror: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    unusable: dict[int, InvalidInput] | None = None,
) -> EmbeddedSet:
    """Embed each distinct image of a pair set once.

    Memory is bounded by the embeddings and a few batches of crops.

    Args:
        session: The network.
        pair_set: The pair set.
        crops: Reads a crop; it is called once for each image, from several threads.
        batch_size: Images in one run of the network.
        mirror: Also embed the mirror images.
        progress: Called after each batch with the number of images in it.
        unusable: Gets the errors of images that cannot be read, by their index; their rows are
            NaN. None to raise the error instead.

    Raises:
        InvalidInput: If an image cannot be read and ``unusable`` is None; names the image.
        CorruptData: If the output for an image is NaN or zero; names the image.
    """
    count, size = len(pair_set.images), session.embedding_size
    embeddings = np.full((count, size), np.nan, np.float32)
    magnitudes = np.full(count, np.nan, np.float32)
    mirrored = np.full((count, size), np.nan, np.float32) if mirror else None
    started = time.perf_counter()
    with closing(_decoded_batches(crops, count, batch_size)) as batches:
        for batch in batches:
            if unusable is not None:
                unusable |= batch.errors
            elif batch.errors:
                raise next(iter(batch.errors.values()))
            if rows := batch.images:
                faces = np.stack(batch.crops)
                raw = session.run(faces)
                embeddings[rows], magnitudes[rows] = _split(raw, pair_set, rows)
                if mirrored is not None:
                    flipped = session.run(np.ascontiguousarray(faces[:, :, ::-1]))
                    mirrored[rows], _ = _split(raw + flipped, pair_set, rows)
            progress(len(batch.images) + len(batch.errors))
    seconds = time.perf_counter() - started
    return EmbeddedSet(embeddings, magnitudes, mirrored, count / seconds)


def _split(
    raw: NDArray[np.float32], pair_set: PairSet, images: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    usable = np.isfinite(raw).all(axis=1) & raw.any(axis=1)
    if not usable.all():
        bad = images[int(np.flatnonzero(~usable)[0])]
        raise CorruptData(f"the network gives no usable output for {pair_set.name(bad)}")
    return split_features(raw)


class _Batch(NamedTuple):
    """Decoded crops, the indices of their images, and errors by the index of the image."""

    images: list[int]
    crops: list[NDArray[np.uint8]]
    errors: dict[int, InvalidInput]


def _decoded_batches(
    crops: CropReader, images: int, batch_size: int
) -> Generator[_Batch, None, None]:
    def decode(start: int) -> _Batch:
        batch = _Batch([], [], {})
        for image in range(start, min(start + batch_size, images)):
            try:
                batch.crops.append(crops(image))
                batch.images.append(image)
            except InvalidInput as error:
                batch.errors[image] = error
        return batch

    starts = iter(range(0, images, batch_size))
    with ThreadPoolExecutor(
        _decoders(), thread_name_prefix="decode", initializer=_lower_priority
    ) as pool:
        ahead: list[Future[_Batch]] = [
            pool.submit(decode, start) for start in islice(starts, _BATCHES_AHEAD)
        ]
        try:
            while ahead:
                yield ahead.pop(0).result()
                ahead += [pool.submit(decode, start) for start in islice(starts, 1)]
        finally:
            for future in ahead:
                future.cancel()


def _decoders() -> int:
    """Return the number of decoding threads: at most half of the CPUs, to not slow the engine."""
    return min(_BATCHES_AHEAD, max(1, cpu_threads() // 2))


def _lower_priority() -> None:
    """Lower the priority of this thread below that of the engine's threads.

    The engine's threads wait for each other many times per batch. When decoding preempts one of
    them, all of them wait; on two cores that reduced the throughput to a hundredth.
    """
    if sys.platform == "linux":
        nice = min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, 19)
        # On Linux each thread has its own niceness.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
