"""A client that calls `Verify` continuously and records every answer."""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import grpc
from magface.v1 import embedder_pb2, image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from cli.clients import CALL_TIMEOUT_S
from shared.datasets.pairs import PairSet
from shared.evaluation.scores import Scores

# Similarities of one version differ by float32 rounding only.
_TOLERANCE = 1e-4


class VerifyAnswer(NamedTuple):
    """The answer for one pair of the set."""

    pair: int
    model_version: str
    similarity: float


# Pause between calls while the training needs the processor.
_PAUSE_S = 0.05


class VerifyTraffic:
    """Context manager that verifies the pairs of a set repeatedly, one call at a time.

    There is a pause between calls until `speed_up`.
    """

    def __init__(self, stub: EmbedderServiceStub, pair_set: PairSet) -> None:
        self._stub = stub
        self._requests = [_request(pair_set, pair) for pair in range(len(pair_set))]
        self._stop = threading.Event()
        self._pause_s = _PAUSE_S
        self._thread = threading.Thread(target=self._run, name="verify-traffic", daemon=True)
        self.answers: list[VerifyAnswer] = []
        self.failures: list[str] = []

    def speed_up(self) -> None:
        """Make calls without a pause from now on."""
        self._pause_s = 0.0

    def _run(self) -> None:
        while not self._stop.is_set():
            for pair, request in enumerate(self._requests):
                if self._stop.wait(self._pause_s):
                    return
                try:
                    answer = self._stub.Verify(request, timeout=CALL_TIMEOUT_S)
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                self.answers.append(VerifyAnswer(pair, answer.model_version, answer.similarity))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _request(pair_set: PairSet, pair: int) -> embedder_pb2.VerifyRequest:
    a, b = (
        embedder_pb2.VerifySide(image=image_pb2.Image(data=pair_set.data(int(image))))
        for image in pair_set.pairs[pair]
    )
    return embedder_pb2.VerifyRequest(a=a, b=b)


def count_mixed(answers: Sequence[VerifyAnswer], references: Mapping[str, Scores]) -> int:
    """Count answers that differ from the score of the version that they name.

    Args:
        answers: Answers of a `VerifyTraffic`.
        references: Scores of the same pairs by each version that served.
    """
    return sum(not _matches(answer, references) for answer in answers)


def _matches(answer: VerifyAnswer, references: Mapping[str, Scores]) -> bool:
    reference = references.get(answer.model_version)
    if reference is None:
        return False
    return abs(float(reference.similarity[answer.pair]) - answer.similarity) <= _TOLERANCE
