"""gRPC servicer: labels, images and exports, with the other parts of FeedbackService."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from magface.v1 import feedback_pb2 as pb

from services.feedback.api.erasure_servicer import ErasureServicer
from services.feedback.api.pairs_servicer import PairsServicer
from services.feedback.labels.service import LabelService
from services.feedback.labels.types import ExportedPair, Feedback, Label, Opinion, PairSummary
from shared.errors import InvalidInput, MagFaceError, Overloaded, without_frames
from shared.rpc.access.caller import Caller, current_caller
from shared.rpc.budget import ByteBudget
from shared.rpc.converters import face_or_hash_from_proto, face_to_proto, pack_timestamp
from shared.rpc.errors import status_code
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.error_status import log_fault
from shared.rpc.server.interceptors import Context
from shared.rpc.server.requests import check_texts
from shared.rpc.streams import (
    BudgetedRequests,
    ReadNext,
    responses_as_completed,
)

_LABELS: Final[dict[pb.Label.ValueType, Label]] = {
    pb.LABEL_SAME: Label.SAME,
    pb.LABEL_DIFFERENT: Label.DIFFERENT,
    pb.LABEL_UNSURE: Label.UNSURE,
}
_LABEL_NUMBERS: Final = {label: number for number, label in _LABELS.items()}


class FeedbackServicer(PairsServicer, ErasureServicer):
    """FeedbackService; its label methods are UNAVAILABLE until `labels` is set.

    Args:
        stream_labels: Most labels of one stream that are read and not answered yet.
        stream_budget: Bytes that the requests of all streams may hold.
    """

    def __init__(self, stream_labels: int, stream_budget: ByteBudget) -> None:
        super().__init__(stream_budget)
        self._stream_labels = stream_labels
        self.labels: Deferred[LabelService] = Deferred("the service")

    async def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, context: Context
    ) -> pb.SubmitFeedbackResponse:
        return await self._submit(request)

    async def SubmitFeedbackStream(
        self, request_iterator: AsyncIterator[pb.SubmitFeedbackStreamRequest], context: Context
    ) -> AsyncIterator[pb.SubmitFeedbackStreamResponse]:
        requests = BudgetedRequests(
            request_iterator, pb.SubmitFeedbackStreamRequest.ByteSize, self._stream_budget
        )
        answers = responses_as_completed(requests, self._submit_streamed, self._stream_labels)
        async with aclosing(answers) as parts:
            async for results in parts:
                yield pb.SubmitFeedbackStreamResponse(results=results)

    async def _submit_streamed(
        self, request: pb.SubmitFeedbackStreamRequest, read_next: ReadNext
    ) -> pb.FeedbackResult:
        read_next()
        result = pb.FeedbackResult(idempotency_key=request.feedback.idempotency_key)
        try:
            result.stored.CopyFrom(await self._submit_when_possible(request.feedback))
        except MagFaceError as error:
            log_fault("SubmitFeedbackStream", error)
            without_frames(error)
            result.refused.code = status_code(error).value[0]
            result.refused.message = str(error)
            if isinstance(error, InvalidInput):
                result.refused.field = error.field
        return result

    async def _submit_when_possible(
        self, request: pb.SubmitFeedbackRequest
    ) -> pb.SubmitFeedbackResponse:
        check_texts(request)
        while True:
            try:
                return await self._submit(request, in_turn=True)
            except Overloaded as error:
                # A stream waits where a single call fails: the labels it has read are bounded.
                await asyncio.sleep(error.retry_after_s)

    async def _submit(
        self, request: pb.SubmitFeedbackRequest, *, in_turn: bool = False
    ) -> pb.SubmitFeedbackResponse:
        caller, labels = current_caller(), self.labels()
        feedback = _unpack_feedback(request, caller)
        sides = feedback.image_a, feedback.image_b
        access = self.pairs().access
        await access.require(caller, [side for side in sides if isinstance(side, str)])
        result = await labels.submit(feedback, in_turn=in_turn)
        sent = zip(sides, (result.image_a, result.image_b), strict=True)
        await access.note_sent(caller, [hash_ for side, hash_ in sent if side != hash_])
        return pb.SubmitFeedbackResponse(
            label_id=result.label_id,
            pair_id=result.pair_id,
            sha256_a=result.image_a,
            sha256_b=result.image_b,
            created=result.created,
            named_otherwise=result.named_otherwise,
        )

    async def ListPairs(
        self, request: pb.ListPairsRequest, context: Context
    ) -> pb.ListPairsResponse:
        consensus = _unpack_label("consensus", request.consensus) if request.consensus else None
        pairs, token = await self.labels().list_pairs(
            consensus, request.page_size, request.page_token
        )
        return pb.ListPairsResponse(pairs=map(_pack_pair, pairs), next_page_token=token)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        sha256 = request.sha256.lower()
        await self.pairs().access.require(current_caller(), [sha256])
        face, stored_at = await self.labels().get_image(sha256)
        digest = await asyncio.to_thread(hashlib.sha256, face.data)
        return pb.GetImageResponse(
            image=face_to_proto(face),
            stored_at=pack_timestamp(stored_at),
            data_sha256=digest.hexdigest(),
        )

    async def ExportPairs(
        self, request: pb.ExportPairsRequest, context: Context
    ) -> AsyncIterator[pb.ExportPairsResponse]:
        async for snapshot_id, pairs in self.labels().export(request.snapshot_id):
            yield pb.ExportPairsResponse(snapshot_id=snapshot_id, pairs=map(_pack_exported, pairs))

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        stats = await self.labels().stats()
        return pb.GetStatsResponse(
            images=stats.images,
            pairs=stats.pairs,
            labels=stats.labels,
            annotators=stats.annotators,
            pairs_same=stats.pairs_same,
            pairs_different=stats.pairs_different,
            pairs_undecided=stats.pairs_undecided,
            damaged_images=stats.damaged_images,
        )


def _unpack_feedback(request: pb.SubmitFeedbackRequest, caller: Caller | None) -> Feedback:
    opinion, key = request.opinion, request.idempotency_key
    return Feedback(
        image_a=face_or_hash_from_proto(request.image_a, "image_a"),
        image_b=face_or_hash_from_proto(request.image_b, "image_b"),
        label=_unpack_label("label", request.label),
        annotator=request.annotator,
        # Another caller cannot take it in advance.
        idempotency_key=caller.own_key(key) if caller else key,
        opinion=Opinion(opinion.model_version, opinion.similarity, opinion.threshold)
        if request.HasField("opinion")
        else None,
        sureness=request.sureness if request.HasField("sureness") else None,
        identity_a=request.image_a.identity,
        identity_b=request.image_b.identity,
    )


def _unpack_label(field: str, number: pb.Label.ValueType) -> Label:
    label = _LABELS.get(number)
    if label is None:
        raise InvalidInput(
            field, f"is {number}; expected LABEL_SAME, LABEL_DIFFERENT or LABEL_UNSURE"
        )
    return label


def _pack_pair(pair: PairSummary) -> pb.Pair:
    return pb.Pair(
        pair_id=pair.pair_id,
        sha256_a=pair.image_a,
        sha256_b=pair.image_b,
        consensus=_LABEL_NUMBERS[pair.consensus] if pair.consensus else pb.LABEL_UNSPECIFIED,
        confidence=pair.confidence,
        votes_same=pair.votes_same,
        votes_different=pair.votes_different,
        votes_unsure=pair.votes_unsure,
        last_labelled=pack_timestamp(pair.last_labelled),
    )


def _pack_exported(pair: ExportedPair) -> pb.LabelledPair:
    return pb.LabelledPair(
        sha256_a=pair.image_a,
        sha256_b=pair.image_b,
        label=_LABEL_NUMBERS[pair.label],
        confidence=pair.confidence,
        votes=[
            pb.Vote(annotator=annotator, label=_LABEL_NUMBERS[label])
            for annotator, label in pair.votes.items()
        ],
    )
