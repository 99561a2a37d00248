"""Sends a set of pairs as feedback, and brings feedback back as a set of pairs."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from magface.v1 import feedback_pb2
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub

from cli.connection import CALL_TIMEOUT_S
from cli.output import counting_progress, to_plain
from cli.pictures import Alignment, naming_files, to_image
from shared.datasets.pairs import PairSet
from shared.errors import AlreadyExists, InvalidInput

_CALLS_AT_ONCE: Final = 8
_EXPORT_TIMEOUT_S: Final = 3600.0
_SUFFIXES: Final = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp"}


@dataclass
class ImportedPairs:
    """What became of each pair.

    Attributes:
        created: Stored now.
        known: Stored by an earlier import of the same pairs.
        rejected: ``{"pair": place, "why": …}`` of those that were refused.
    """

    created: int = 0
    known: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)


def import_pair_set(
    stub: FeedbackServiceStub, pair_set: PairSet, annotator: str, alignment: Alignment
) -> ImportedPairs:
    """Submits each pair; a refused one does not stop the others.

    The idempotency key follows from the whole set and the pair's place in it: importing a
    set again stores nothing twice, while another set may contradict it.
    """
    sender = _Sender(stub, pair_set, annotator, alignment)
    done = ImportedPairs()
    with counting_progress() as progress, ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        task = progress.add_task("submitting", total=len(pair_set))
        places = iter(range(len(pair_set)))
        while batch := list(islice(places, 16 * _CALLS_AT_ONCE)):
            for place, outcome in zip(batch, pool.map(sender.submit, batch), strict=True):
                if isinstance(outcome, str):
                    done.rejected.append({"pair": place, "why": outcome})
                elif outcome:
                    done.created += 1
                else:
                    done.known += 1
                progress.advance(task)
    return done


class _Sender:
    """Submits single pairs, from several threads; each image's bytes travel about once."""

    def __init__(
        self, stub: FeedbackServiceStub, pair_set: PairSet, annotator: str, alignment: Alignment
    ) -> None:
        self._stub = stub
        self._pair_set = pair_set
        self._annotator = annotator
        self._alignment = alignment
        self._stored: dict[int, str] = {}
        self._set_key = _fingerprint(pair_set)

    def submit(self, place: int) -> bool | str:
        """Says whether the label is new, or why it was refused."""
        first, second = self._pair_set.pairs[place].tolist()
        same = bool(self._pair_set.labels[place])
        names = {"image_a": self._pair_set.name(first), "image_b": self._pair_set.name(second)}
        try:
            request = feedback_pb2.SubmitFeedbackRequest(
                image_a=self._reference(first),
                image_b=self._reference(second),
                label=feedback_pb2.LABEL_SAME if same else feedback_pb2.LABEL_DIFFERENT,
                annotator=self._annotator,
                idempotency_key=self._key(place),
            )
            with naming_files(names):
                answer = self._stub.SubmitFeedback(request, timeout=CALL_TIMEOUT_S)
        except (InvalidInput, AlreadyExists) as error:
            return str(error)
        self._stored[first], self._stored[second] = answer.sha256_a, answer.sha256_b
        return answer.created

    def _reference(self, image: int) -> feedback_pb2.ImageRef:
        if image in self._stored:
            return feedback_pb2.ImageRef(sha256=self._stored[image])
        picture = to_image(self._pair_set.data(image), self._alignment)
        return feedback_pb2.ImageRef(image=picture)

    def _key(self, place: int) -> str:
        content = f"{self._set_key} {place} {self._annotator}"
        return hashlib.sha256(content.encode()).hexdigest()


def _fingerprint(pair_set: PairSet) -> str:
    digest = hashlib.sha256(pair_set.pairs.tobytes() + pair_set.labels.tobytes())
    for image in range(len(pair_set.images)):
        digest.update(hashlib.sha256(pair_set.data(image)).digest())
    return digest.hexdigest()


def export_pairs(stub: FeedbackServiceStub, folder: Path, snapshot_id: str) -> dict[str, Any]:
    """Writes ``pairs.json`` and ``images/`` as `read_pairs_json` reads them.

    Returns:
        The snapshot's id, and how many pairs and images there are.
    """
    pairs, snapshot_id = _stream_pairs(stub, snapshot_id)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    wanted = sorted({sha256 for pair in pairs for sha256 in (pair.sha256_a, pair.sha256_b)})
    with counting_progress() as progress, ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        fetched = pool.map(lambda sha256: _fetch_image(stub, folder, sha256), wanted)
        shown = progress.track(fetched, total=len(wanted), description="fetching images")
        images = dict(zip(wanted, shown, strict=True))
    entries = [
        {
            "image1": images[pair.sha256_a]["file"],
            "image2": images[pair.sha256_b]["file"],
            "label": int(pair.label == feedback_pb2.LABEL_SAME),
            "confidence": pair.confidence,
            "votes": [to_plain(vote) for vote in pair.votes],
        }
        for pair in pairs
    ]
    content = {"snapshot_id": snapshot_id, "pairs": entries, "images": images}
    (folder / "pairs.json").write_text(json.dumps(content, indent=1) + "\n")
    return {"snapshot_id": snapshot_id, "pairs": len(pairs), "images": len(images)}


def _stream_pairs(
    stub: FeedbackServiceStub, snapshot_id: str
) -> tuple[list[feedback_pb2.LabelledPair], str]:
    pairs: list[feedback_pb2.LabelledPair] = []
    request = feedback_pb2.ExportPairsRequest(snapshot_id=snapshot_id)
    for part in stub.ExportPairs(request, timeout=_EXPORT_TIMEOUT_S):
        snapshot_id = part.snapshot_id
        pairs += part.pairs
    return pairs, snapshot_id


def _fetch_image(stub: FeedbackServiceStub, folder: Path, sha256: str) -> dict[str, Any]:
    request = feedback_pb2.GetImageRequest(sha256=sha256)
    image = stub.GetImage(request, timeout=CALL_TIMEOUT_S).image
    name = f"images/{sha256}{_SUFFIXES.get(image.data[:2], '')}"
    (folder / name).write_bytes(image.data)
    plain = to_plain(image)
    return {"file": name, "alignment": plain["alignment"], "landmarks": plain["landmarks"]}
