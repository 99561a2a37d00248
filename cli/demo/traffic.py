"""A client that keeps calling `Verify` and remembers every answer."""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import grpc
from magface.v1 import embedder_pb2, image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from cli.clients import CALL_TIMEOUT_S
from shared.datasets.pairs import PairSet
from shared.evaluation.scores import Scores

# An answer of one version equals that version's own similarity but for float32's rounding.
_TOLERANCE = 1e-4


class Answer(NamedTuple):
    """What was answered for one pair of the set."""

    pair: int
    model_version: str
    similarity: float


# Between two calls while a training needs the processor.
_REST_S = 0.05


class VerifyTraffic:
    """Verifies a set's pairs over and over, one call after the other, while it is entered.

    It starts at a gentle pace; after `hurry` there is no rest between two calls.
    """

    def __init__(self, stub: EmbedderServiceStub, pair_set: PairSet) -> None:
        self._stub = stub
        self._requests = [_request(pair_set, pair) for pair in range(len(pair_set))]
        self._stop = threading.Event()
        self._rest_s = _REST_S
        self._thread = threading.Thread(target=self._run, name="verify-traffic", daemon=True)
        self.answers: list[Answer] = []
        self.failures: list[str] = []

    def hurry(self) -> None:
        """Leave no rest between two calls from now on."""
        self._rest_s = 0.0

    def _run(self) -> None:
        while not self._stop.is_set():
            for pair, request in enumerate(self._requests):
                if self._stop.wait(self._rest_s):
                    return
                try:
                    answer = self._stub.Verify(request, timeout=CALL_TIMEOUT_S)
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                self.answers.append(Answer(pair, answer.model_version, answer.similarity))

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


def count_mixed(answers: Sequence[Answer], references: Mapping[str, Scores]) -> int:
    """Count answers that are not what the version they name says of the pair.

    Args:
        answers: Of a `VerifyTraffic`.
        references: Scores of the same pairs under each version that served.
    """
    return sum(not _agrees(answer, references) for answer in answers)


def _agrees(answer: Answer, references: Mapping[str, Scores]) -> bool:
    reference = references.get(answer.model_version)
    if reference is None:
        return False
    return abs(float(reference.similarity[answer.pair]) - answer.similarity) <= _TOLERANCE
