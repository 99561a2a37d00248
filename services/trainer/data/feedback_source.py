"""Data snapshots pulled from the feedback service."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from magface.v1 import feedback_pb2, feedback_pb2_grpc, image_pb2

from services.trainer.data.labels import LabelledPair, Vote, images_of
from shared.errors import CorruptData, NotFound
from shared.model.image.face import FaceImage
from shared.rpc.converters import face_from_proto
from shared.rpc.errors import domain_errors

_EXPORT_TIMEOUT_S = 300.0
_IMAGE_TIMEOUT_S = 20.0
_PARALLEL_FETCHES = 8
_SAME = {feedback_pb2.LABEL_SAME: True, feedback_pb2.LABEL_DIFFERENT: False}


@dataclass(frozen=True)
class DataSnapshot:
    """The labelled pairs of a snapshot that are still stored.

    Attributes:
        pairs: The same pairs in the same order each time, but for those erased since.
    """

    snapshot_id: str
    pairs: tuple[LabelledPair, ...]


def pull_snapshot(channel: grpc.Channel, snapshot_id: str | None) -> DataSnapshot:
    """Pull the pairs of a snapshot from the feedback service.

    Args:
        channel: Connection to the feedback service.
        snapshot_id: The snapshot; None makes one of the feedback as it is now.

    Raises:
        NotFound: If the service does not know the snapshot.
        Unavailable: If the service cannot be reached.
    """
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
    request = feedback_pb2.ExportPairsRequest(snapshot_id=snapshot_id or "")
    pulled_id = request.snapshot_id
    pairs: list[LabelledPair] = []
    with domain_errors():
        for part in stub.ExportPairs(request, timeout=_EXPORT_TIMEOUT_S):
            pulled_id = part.snapshot_id
            pairs += map(_pair_from_proto, part.pairs)
    return DataSnapshot(pulled_id, tuple(pairs))


class PulledFeedback:
    """A `FeedbackSource` of a pulled snapshot; fetches images through a cache on disk.

    `image` may be called from several threads at once.

    Args:
        channel: Connection to the feedback service.
        snapshot: The pulled snapshot.
        cache: Folder for the images; created if it does not exist.
    """

    def __init__(self, channel: grpc.Channel, snapshot: DataSnapshot, cache: Path) -> None:
        self._stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self._snapshot = snapshot
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    @property
    def snapshot_id(self) -> str:
        return self._snapshot.snapshot_id

    def pairs(self) -> Iterator[LabelledPair]:
        """See `FeedbackSource.pairs`."""
        return iter(self._snapshot.pairs)

    def image(self, sha256: str) -> FaceImage:
        """See `FeedbackSource.image`.

        Raises:
            NotFound: If the service does not store the image any more.
            CorruptData: If the service returns bytes with another hash.
            Unavailable: If the service cannot be reached.
        """
        cached = self._cache / sha256
        if not cached.exists():
            self._fetch(sha256, cached)
        return face_from_proto(image_pb2.Image.FromString(cached.read_bytes()), sha256)

    def fetch_all(self, report: Callable[[int, int], None]) -> None:
        """Fetch every image into the cache, several at a time.

        Args:
            report: Called after each image with the number of images fetched and of all.
        """
        wanted = sorted(images_of(self._snapshot.pairs))
        with ThreadPoolExecutor(_PARALLEL_FETCHES) as pool:
            for done, _ in enumerate(pool.map(self._fetch_if_stored, wanted), 1):
                report(done, len(wanted))

    def _fetch_if_stored(self, sha256: str) -> None:
        # An image that was erased or damaged gives the error to whoever asks for it later.
        with suppress(NotFound, CorruptData):
            self.image(sha256)

    def _fetch(self, sha256: str, cached: Path) -> None:
        request = feedback_pb2.GetImageRequest(sha256=sha256)
        with domain_errors():
            answer = self._stub.GetImage(request, timeout=_IMAGE_TIMEOUT_S)
        image = answer.image
        # Earlier releases served the bytes as they were sent.
        if hashlib.sha256(image.data).hexdigest() != (answer.data_sha256 or sha256):
            raise CorruptData(f"the feedback service returned other bytes for image {sha256}")
        partial = self._cache / f"{sha256}.{id(image):x}"
        partial.write_bytes(image.SerializeToString())
        partial.replace(cached)


def _pair_from_proto(pair: feedback_pb2.LabelledPair) -> LabelledPair:
    return LabelledPair(
        sha256_a=pair.sha256_a,
        sha256_b=pair.sha256_b,
        same=_SAME[pair.label],
        confidence=pair.confidence,
        votes=tuple(Vote(vote.annotator, _SAME.get(vote.label)) for vote in pair.votes),
    )
