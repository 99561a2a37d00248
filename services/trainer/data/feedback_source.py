"""The feedback of one data snapshot, pulled from the feedback service."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
_FETCHES_AT_ONCE = 8
_SAME = {feedback_pb2.LABEL_SAME: True, feedback_pb2.LABEL_DIFFERENT: False}


class PulledFeedback:
    """A snapshot's pairs, and its images through a cache on disk.

    Images may be asked for from several threads at once.

    Args:
        channel: To the feedback service.
        snapshot_id: What to pull; None freezes the feedback as it stands.
        cache: An empty folder for the images.

    Raises:
        NotFound: If the service does not know the snapshot.
        Unavailable: If the service cannot be reached.
    """

    def __init__(self, channel: grpc.Channel, snapshot_id: str | None, cache: Path) -> None:
        self._stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        self._pairs: list[LabelledPair] = []
        self._snapshot_id = snapshot_id or ""
        self._pull()

    @property
    def snapshot_id(self) -> str:
        return self._snapshot_id

    def pairs(self) -> Iterator[LabelledPair]:
        """See `services.trainer.training.FeedbackSource`."""
        return iter(self._pairs)

    def image(self, sha256: str) -> FaceImage:
        """See `services.trainer.training.FeedbackSource`.

        Raises:
            NotFound: If the service does not hold it any more.
            CorruptData: If what it gives has another hash.
            Unavailable: If the service cannot be reached.
        """
        cached = self._cache / sha256
        if not cached.exists():
            self._fetch(sha256, cached)
        return face_from_proto(image_pb2.Image.FromString(cached.read_bytes()), sha256)

    def fetch_all(self, report: Callable[[int, int], None]) -> None:
        """Bring every image into the cache, several at a time.

        Args:
            report: Takes how many of how many are there, after each.
        """
        wanted = sorted(images_of(self._pairs))
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            for done, _ in enumerate(pool.map(self._fetch_if_there, wanted), 1):
                report(done, len(wanted))

    def _pull(self) -> None:
        request = feedback_pb2.ExportPairsRequest(snapshot_id=self._snapshot_id)
        with domain_errors():
            for part in self._stub.ExportPairs(request, timeout=_EXPORT_TIMEOUT_S):
                self._snapshot_id = part.snapshot_id
                self._pairs += map(_pair, part.pairs)

    def _fetch_if_there(self, sha256: str) -> None:
        # Erased since: whoever asks for it gets the error.
        with suppress(NotFound):
            self.image(sha256)

    def _fetch(self, sha256: str, cached: Path) -> None:
        request = feedback_pb2.GetImageRequest(sha256=sha256)
        with domain_errors():
            image = self._stub.GetImage(request, timeout=_IMAGE_TIMEOUT_S).image
        if hashlib.sha256(image.data).hexdigest() != sha256:
            raise CorruptData(f"the feedback service gave other bytes for image {sha256}")
        partial = self._cache / f"{sha256}.{id(image):x}"
        partial.write_bytes(image.SerializeToString())
        partial.replace(cached)


def _pair(pair: feedback_pb2.LabelledPair) -> LabelledPair:
    return LabelledPair(
        sha256_a=pair.sha256_a,
        sha256_b=pair.sha256_b,
        same=_SAME[pair.label],
        confidence=pair.confidence,
        votes=tuple(Vote(vote.annotator, _SAME.get(vote.label)) for vote in pair.votes),
    )
