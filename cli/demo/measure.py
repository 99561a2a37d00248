"""Measurement of the serving model through the embedder's `Embed`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from magface.v1 import embedder_pb2, image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub
from numpy.typing import NDArray

from cli.clients import CALL_TIMEOUT_S
from shared.datasets.pairs import PairSet
from shared.errors import Conflict
from shared.evaluation.calibration import best_accuracy_threshold
from shared.evaluation.metrics import confusion, roc
from shared.evaluation.scores import Scores, pair_similarity

_IMAGES_A_CALL = 32
FIXED_THRESHOLD = 0.4


@dataclass(frozen=True)
class ServedModelScores:
    """Scores of the serving version on the test people.

    Attributes:
        model_version: The version.
        test: Scores of the test pairs.
        threshold: The threshold with the fewest errors on the validation people.
        served: What the version does at the threshold that it serves with, on all pairs of the
            test people.
    """

    model_version: str
    test: Scores
    threshold: float
    served: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """The summary's figures, at the calibrated threshold."""
        counted = confusion(self.test, self.threshold)
        return {
            "accuracy": counted.accuracy,
            "precision": counted.precision,
            "recall": counted.recall,
            "tp": counted.tp,
            "tn": counted.tn,
            "fp": counted.fp,
            "fn": counted.fn,
            "auc": roc(self.test).auc,
            "threshold": self.threshold,
            **self.served,
        }

    def accuracy_at_fixed_threshold(self) -> float:
        return confusion(self.test, FIXED_THRESHOLD).accuracy


def measure(stub: EmbedderServiceStub, validation: PairSet, test: PairSet) -> ServedModelScores:
    """Calibrate the threshold on the validation people and measure the test people.

    Raises:
        Conflict: The serving model changed in between.
    """
    version, calibration = score_by_service(stub, validation)
    version_after, embeddings = _embed(stub, test)
    model = stub.GetModel(embedder_pb2.GetModelRequest(), timeout=CALL_TIMEOUT_S)
    if not version == version_after == model.model_version:
        raise Conflict(f"{version} was replaced by {model.model_version} during the measurement")
    return ServedModelScores(
        version,
        Scores(pair_similarity(embeddings, test.pairs), test.labels),
        best_accuracy_threshold(calibration),
        _served_errors(embeddings, test, model.threshold),
    )


def _served_errors(
    embeddings: NDArray[np.float32], test: PairSet, threshold: float
) -> dict[str, float]:
    """Measure the error rates on all pairs, as few impostor pairs show nothing at a low FMR."""
    people = np.unique(np.array(test.identities), return_inverse=True)[1]
    first, second = np.triu_indices(len(people), 1)
    similarity = pair_similarity(embeddings, np.stack([first, second], axis=1))
    genuine = people[first] == people[second]
    same = similarity >= threshold
    return {
        "served_threshold": threshold,
        "served_fmr": float(same[~genuine].mean()),
        "served_fnmr": float((~same)[genuine].mean()),
    }


def score_by_service(stub: EmbedderServiceStub, pair_set: PairSet) -> tuple[str, Scores]:
    """Embed a set's images with `Embed`, and score its pairs.

    Returns:
        The model version, and the scores.

    Raises:
        Conflict: The serving model changed in between.
    """
    version, embeddings = _embed(stub, pair_set)
    return version, Scores(pair_similarity(embeddings, pair_set.pairs), pair_set.labels)


def _embed(stub: EmbedderServiceStub, pair_set: PairSet) -> tuple[str, NDArray[np.float32]]:
    embeddings: list[NDArray[np.float32]] = []
    versions = set()
    for start in range(0, len(pair_set.images), _IMAGES_A_CALL):
        batch = range(start, min(start + _IMAGES_A_CALL, len(pair_set.images)))
        images = [image_pb2.Image(data=pair_set.data(image)) for image in batch]
        answer = stub.Embed(embedder_pb2.EmbedRequest(images=images), timeout=CALL_TIMEOUT_S)
        embeddings += [np.frombuffer(face.embedding, "<f4") for face in answer.faces]
        versions.add(answer.model_version)
    if len(versions) != 1:
        raise Conflict(f"the serving model changed during the measurement: {sorted(versions)}")
    return versions.pop(), np.stack(embeddings)
