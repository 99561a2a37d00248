"""gRPC servicer: the image pool and the pairs to label."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.pool.importer import PoolImage, PoolImporter, image_bytes
from services.feedback.selection.annotator_stats import AnnotatorRecord, AnnotatorStats
from services.feedback.selection.image_access import ImageAccess
from services.feedback.selection.pair_leases import PairLeaser
from services.feedback.selection.strategies import Strategy
from shared.errors import InvalidInput, without_frames
from shared.rpc.budget import ByteBudget
from shared.rpc.converters import face_from_proto, pack_timestamp
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.idempotency import read_idempotency_key
from shared.rpc.server.interceptors import Context
from shared.rpc.server.requests import check_texts
from shared.rpc.streams import BudgetedRequests

_STRATEGIES: Final[dict[pb.Strategy.ValueType, Strategy | None]] = {
    pb.STRATEGY_UNSPECIFIED: None,
    pb.STRATEGY_UNCERTAINTY: Strategy.UNCERTAINTY,
    pb.STRATEGY_DISAGREEMENT: Strategy.DISAGREEMENT,
    pb.STRATEGY_HARD: Strategy.HARD,
    pb.STRATEGY_RANDOM: Strategy.RANDOM,
}


@dataclass(frozen=True, slots=True)
class PairsBackend:
    """What the servicer calls."""

    importer: PoolImporter
    leaser: PairLeaser
    annotators: AnnotatorStats
    access: ImageAccess


class PairsServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Pool and pair methods of FeedbackService; UNAVAILABLE until `pairs` is set.

    Args:
        stream_budget: Bytes that the requests of all streams may hold.
    """

    def __init__(self, stream_budget: ByteBudget) -> None:
        super().__init__()
        self._stream_budget = stream_budget
        self.pairs: Deferred[PairsBackend] = Deferred("the service")

    async def ImportImages(
        self, request_iterator: AsyncIterator[pb.ImportImagesRequest], context: Context
    ) -> pb.ImportImagesResponse:
        images = BudgetedRequests(_pool_images(request_iterator), image_bytes, self._stream_budget)
        result = await self.pairs().importer.import_images(images)
        return pb.ImportImagesResponse(
            created=result.created,
            known=result.known,
            rejected=result.rejected,
            rejections=[
                pb.RejectedImage(place=rejection.position, why=rejection.reason)
                for rejection in result.rejections
            ],
            named_otherwise=result.named_otherwise,
            other_names=[
                pb.OtherNames(place=one.position, identities=one.names)
                for one in result.other_names
            ],
            near_identical=result.near_identical,
            near_duplicates=[
                pb.NearDuplicate(place=one.position, sha256=one.sha256)
                for one in result.near_duplicates
            ],
        )

    async def NextPairs(
        self, request: pb.NextPairsRequest, context: Context
    ) -> pb.NextPairsResponse:
        if request.strategy not in _STRATEGIES:
            raise InvalidInput("strategy", f"is {request.strategy}, which is not a Strategy")
        leased = await self.pairs().leaser.next_pairs(
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
                for lease in leased.leases
            ],
            note=leased.note,
            held_until=pack_timestamp(leased.held_until) if leased.held_until else None,
        )

    async def ListAnnotators(
        self, request: pb.ListAnnotatorsRequest, context: Context
    ) -> pb.ListAnnotatorsResponse:
        records = await self.pairs().annotators.list_records()
        return pb.ListAnnotatorsResponse(annotators=map(_pack_record, records))


def _pack_record(record: AnnotatorRecord) -> pb.AnnotatorRecord:
    return pb.AnnotatorRecord(
        annotator=record.annotator,
        gold_answers=record.gold_answers,
        gold_right=record.gold_right,
    )


async def _pool_images(
    requests: AsyncIterator[pb.ImportImagesRequest],
) -> AsyncIterator[PoolImage]:
    async for request in requests:
        yield _unpack_pool_image(request)
        # While the stream waits for the next request it holds none.
        del request


def _unpack_pool_image(request: pb.ImportImagesRequest) -> PoolImage:
    try:
        check_texts(request)
        return PoolImage(face_from_proto(request.image, "image"), request.identity)
    except InvalidInput as error:
        return PoolImage(without_frames(error))
