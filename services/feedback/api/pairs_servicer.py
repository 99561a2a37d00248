"""Unpacks the requests about the pool and the pairs to label, calls, and packs the answers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.pool.importer import ImagePool, PoolImage
from services.feedback.selection.annotator_stats import AnnotatorRecord, Annotators
from services.feedback.selection.maintenance import Tender
from services.feedback.selection.pair_leases import LeaseOffice
from services.feedback.selection.strategies import Strategy
from shared.errors import InvalidInput
from shared.rpc.converters import face_from_proto, pack_timestamp
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.idempotency import read_idempotency_key
from shared.rpc.server.interceptors import Context
from shared.rpc.server.requests import check_texts


@dataclass(frozen=True, slots=True)
class Active:
    """The image pool, who hands out its pairs and to whom, and who tends it meanwhile."""

    images: ImagePool
    office: LeaseOffice
    annotators: Annotators
    tender: Tender


_STRATEGIES: Final[dict[pb.Strategy.ValueType, Strategy | None]] = {
    pb.STRATEGY_UNSPECIFIED: None,
    pb.STRATEGY_UNCERTAINTY: Strategy.UNCERTAINTY,
    pb.STRATEGY_DISAGREEMENT: Strategy.DISAGREEMENT,
    pb.STRATEGY_HARD: Strategy.HARD,
    pb.STRATEGY_RANDOM: Strategy.RANDOM,
}


class ActiveServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """The active part of the contract, UNAVAILABLE until `active` is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.active: Deferred[Active] = Deferred("the service")

    async def ImportImages(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ImportImagesRequest],
        context: Context,  # noqa: ARG002
    ) -> pb.ImportImagesResponse:
        intake = await self.active().images.take_in(_pool_images(request_iterator))
        return pb.ImportImagesResponse(
            created=intake.created,
            known=intake.known,
            rejected=intake.refused,
            rejections=[
                pb.RejectedImage(place=refusal.place, why=refusal.why)
                for refusal in intake.refusals
            ],
        )

    async def NextPairs(  # noqa: N802
        self,
        request: pb.NextPairsRequest,
        context: Context,
    ) -> pb.NextPairsResponse:
        if request.strategy not in _STRATEGIES:
            raise InvalidInput("strategy", f"is {request.strategy}, which is not a Strategy")
        handed = await self.active().office.next_pairs(
            request.annotator,
            request.count,
            _STRATEGIES[request.strategy],
            read_idempotency_key(request.idempotency_key, context),
        )
        return pb.NextPairsResponse(
            pairs=[
                pb.LeasedPair(
                    lease_id=lease.lease_id,
                    sha256_a=lease.image_a,
                    sha256_b=lease.image_b,
                    expires_at=pack_timestamp(lease.expires_at),
                )
                for lease in handed.leases
            ],
            note=handed.note,
        )

    async def ListAnnotators(  # noqa: N802
        self,
        request: pb.ListAnnotatorsRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.ListAnnotatorsResponse:
        return pb.ListAnnotatorsResponse(
            annotators=map(_annotator, await self.active().annotators.records())
        )


def _annotator(record: AnnotatorRecord) -> pb.AnnotatorRecord:
    return pb.AnnotatorRecord(
        annotator=record.annotator,
        gold_answers=record.gold_answers,
        gold_right=record.gold_right,
    )


async def _pool_images(
    requests: AsyncIterator[pb.ImportImagesRequest],
) -> AsyncIterator[PoolImage]:
    async for request in requests:
        yield _pool_image(request)


def _pool_image(request: pb.ImportImagesRequest) -> PoolImage:
    try:
        check_texts(request)
        return PoolImage(face_from_proto(request.image, "image"), request.identity)
    except InvalidInput as error:
        return PoolImage(error)
