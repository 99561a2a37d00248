"""Import of a pair set as labels, over a stream that resumes after a lost connection."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Semaphore
from typing import Any, Final

import grpc
from magface.v1 import feedback_pb2
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub

from cli.images import AlignmentChoice, error_of_file, to_image
from cli.output import counting_progress
from shared.datasets.pairs import PairSet
from shared.errors import InvalidInput, Unavailable
from shared.rpc.converters import face_to_proto
from shared.rpc.errors import domain_errors
from shared.validation import normal_name

_UNANSWERED: Final = 128
_TRIES: Final = 5
_PAUSE_S: Final = 1.0
_STREAM_TIMEOUT_S: Final = 24 * 3600.0
_UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE.value[0]


@dataclass
class ImportedPairs:
    """Result of an import.

    Attributes:
        created: Number of labels stored by this import.
        known: Number of labels that an earlier import of the same pairs stored.
        rejected: ``{"pair": place, "why": …}`` of each refused pair, ordered by place.
        named_otherwise: Names of the images that are stored under another name beside the one in
            the set. Both names stay.
    """

    created: int = 0
    known: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    named_otherwise: set[str] = field(default_factory=set)


def import_pair_set(
    stub: FeedbackServiceStub, pair_set: PairSet, annotator: str, alignment: AlignmentChoice
) -> ImportedPairs:
    """Submits each pair; a refused pair does not stop the others.

    The idempotency key is a hash of the whole set and the pair's place in it: importing a set
    again stores nothing twice, and other sets may have other labels for the same pair. The names
    of the people are sent with the images, also of pairs that are stored already. After a lost
    connection, the pairs without an answer are sent again.

    Raises:
        Unavailable: Five tries in a row stored nothing; labels stored before that stay.
    """
    sender = _Sender(stub, pair_set, normal_name(annotator), alignment)
    done = ImportedPairs()
    remaining = dict.fromkeys(range(len(pair_set)))
    failed_tries = 0
    with counting_progress() as progress:
        task = progress.add_task("submitting", total=len(pair_set))
        while remaining:
            before = len(remaining)
            try:
                for place, result in sender.send(list(remaining)):
                    if _count(done, place, result, sender.names(place)):
                        del remaining[place]
                        progress.advance(task)
                error = Unavailable(
                    f"{len(remaining)} pairs could not be stored; import them again"
                )
            except Unavailable as lost:
                error = lost
            for place in [place for place in list(sender.unusable) if place in remaining]:
                done.rejected.append({"pair": place, "why": str(sender.unusable[place])})
                del remaining[place]
                progress.advance(task)
            failed_tries = failed_tries + 1 if len(remaining) == before else 0
            if failed_tries == _TRIES:
                raise error
            if remaining:
                time.sleep(_PAUSE_S)
    done.rejected.sort(key=lambda one: int(one["pair"]))
    return done


def _count(
    done: ImportedPairs, place: int, result: feedback_pb2.FeedbackResult, names: dict[str, str]
) -> bool:
    """Counts a result; returns False when the pair must be sent again."""
    refused = result.refused
    if result.HasField("stored"):
        done.created += result.stored.created
        done.known += not result.stored.created
        hashes = {"image_a": result.stored.sha256_a, "image_b": result.stored.sha256_b}
        otherwise = set(result.stored.named_otherwise)
        done.named_otherwise |= {names[side] for side in names if hashes[side] in otherwise}
    elif refused.code == _UNAVAILABLE:
        return False
    else:
        reason = refused.message.removeprefix(f"{refused.field}: ")
        error = error_of_file(names, refused.field, reason) if refused.field else None
        why = refused.message if error is None else str(error)
        done.rejected.append({"pair": place, "why": why})
    return True


class _Sender:
    """Streams pairs with a bounded number in flight; sends each image about once."""

    def __init__(
        self,
        stub: FeedbackServiceStub,
        pair_set: PairSet,
        annotator: str,
        alignment: AlignmentChoice,
    ) -> None:
        self._stub = stub
        self._pair_set = pair_set
        self._annotator = annotator
        self._alignment = alignment
        self._stored: dict[int, str] = {}
        self.unusable: dict[int, InvalidInput] = {}
        """Pairs with an image that cannot be read, by their place; they are not sent."""
        self._set_key = _fingerprint(pair_set)

    def send(self, places: Iterable[int]) -> Iterator[tuple[int, feedback_pb2.FeedbackResult]]:
        """Submits the pairs at these positions and yields the result of each."""
        by_key = {self._key(place): place for place in places}
        with _window(_UNANSWERED) as (slots, ended):
            requests = self._requests(by_key, slots, ended)
            with domain_errors():
                stream = self._stub.SubmitFeedbackStream(requests, timeout=_STREAM_TIMEOUT_S)
                for part in stream:
                    for result in part.results:
                        slots.release()
                        place = by_key[result.idempotency_key]
                        self._remember(place, result)
                        yield place, result

    def names(self, place: int) -> dict[str, str]:
        first, second = self._pair_set.pairs[place].tolist()
        return {"image_a": self._pair_set.name(first), "image_b": self._pair_set.name(second)}

    def _requests(
        self, by_key: dict[str, int], slots: Semaphore, ended: Event
    ) -> Iterator[feedback_pb2.SubmitFeedbackStreamRequest]:
        for key, place in by_key.items():
            slots.acquire()
            if ended.is_set():
                return
            try:
                request = self._request(key, place)
            except InvalidInput as error:
                self.unusable[place] = error
                slots.release()
                continue
            yield feedback_pb2.SubmitFeedbackStreamRequest(feedback=request)

    def _request(self, key: str, place: int) -> feedback_pb2.SubmitFeedbackRequest:
        first, second = self._pair_set.pairs[place].tolist()
        same = bool(self._pair_set.labels[place])
        names = self._pair_set.names[place] if self._pair_set.names else ("", "")
        return feedback_pb2.SubmitFeedbackRequest(
            image_a=self._reference(first, names[0]),
            image_b=self._reference(second, names[1]),
            label=feedback_pb2.LABEL_SAME if same else feedback_pb2.LABEL_DIFFERENT,
            annotator=self._annotator,
            idempotency_key=key,
        )

    def _remember(self, place: int, result: feedback_pb2.FeedbackResult) -> None:
        if result.HasField("stored"):
            first, second = self._pair_set.pairs[place].tolist()
            self._stored[first] = result.stored.sha256_a
            self._stored[second] = result.stored.sha256_b

    def _reference(self, image: int, identity: str) -> feedback_pb2.ImageRef:
        if image in self._stored:
            return feedback_pb2.ImageRef(sha256=self._stored[image], identity=identity)
        known = self._pair_set.face(image) if self._alignment is AlignmentChoice.AUTO else None
        if known is not None:
            return feedback_pb2.ImageRef(image=face_to_proto(known), identity=identity)
        picture = to_image(self._pair_set.data(image), self._alignment)
        return feedback_pb2.ImageRef(image=picture, identity=identity)

    def _key(self, place: int) -> str:
        content = f"{self._set_key} {place} {self._annotator}"
        return hashlib.sha256(content.encode()).hexdigest()


@contextmanager
def _window(size: int) -> Iterator[tuple[Semaphore, Event]]:
    """Bounds the requests in flight, and releases the sending thread at the end."""
    slots, ended = Semaphore(size), Event()
    try:
        yield slots, ended
    finally:
        ended.set()
        slots.release()


def _fingerprint(pair_set: PairSet) -> str:
    digest = hashlib.sha256(pair_set.pairs.tobytes() + pair_set.labels.tobytes())
    for image in range(len(pair_set.images)):
        try:
            content = pair_set.data(image)
        except InvalidInput as error:
            content = str(error).encode()
        digest.update(hashlib.sha256(content).digest())
        if cropping := pair_set.croppings.get(image):
            digest.update(repr(cropping).encode())
    return digest.hexdigest()
