"""Unpacks requests, calls the store, packs its answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from magface.v1 import feedback_pb2 as pb

from services.feedback.api.erasure_servicer import ErasureServicer
from services.feedback.api.pairs_servicer import ActiveServicer
from services.feedback.labels.service import FeedbackStore
from services.feedback.labels.types import Feedback, Label, LabelledPair, Opinion, PairSummary
from shared.errors import InvalidInput, MagFaceError, Overloaded
from shared.rpc.converters import face_or_hash_from_proto, face_to_proto, pack_timestamp
from shared.rpc.errors import status_code
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.interceptors import Context
from shared.rpc.server.requests import check_texts
from shared.rpc.streams import responses_as_completed

_LABELS: Final[dict[pb.Label.ValueType, Label]] = {
    pb.LABEL_SAME: Label.SAME,
    pb.LABEL_DIFFERENT: Label.DIFFERENT,
    pb.LABEL_UNSURE: Label.UNSURE,
}
_NUMBERS: Final = {label: number for number, label in _LABELS.items()}


class FeedbackServicer(ActiveServicer, ErasureServicer):
    """The contract's FeedbackService over a store, UNAVAILABLE until `store` is opened.

    Args:
        stream_labels: Labels of one stream that may be read and not yet answered.
    """

    def __init__(self, stream_labels: int) -> None:
        super().__init__()
        self._stream_labels = stream_labels
        self.store: Deferred[FeedbackStore] = Deferred("the service")

    async def SubmitFeedback(  # noqa: N802
        self,
        request: pb.SubmitFeedbackRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.SubmitFeedbackResponse:
        return await self._submit(request)

    async def SubmitFeedbackStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.SubmitFeedbackStreamRequest],
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.SubmitFeedbackStreamResponse]:
        answers = responses_as_completed(request_iterator, self._result, self._stream_labels)
        async with aclosing(answers) as parts:
            async for results in parts:
                yield pb.SubmitFeedbackStreamResponse(results=results)

    async def _result(self, request: pb.SubmitFeedbackStreamRequest) -> pb.FeedbackResult:
        result = pb.FeedbackResult(idempotency_key=request.feedback.idempotency_key)
        try:
            result.stored.CopyFrom(await self._submit_in_turn(request.feedback))
        except MagFaceError as error:
            result.refused.code = status_code(error).value[0]
            result.refused.message = str(error)
            if isinstance(error, InvalidInput):
                result.refused.field = error.field
        return result

    async def _submit_in_turn(self, request: pb.SubmitFeedbackRequest) -> pb.SubmitFeedbackResponse:
        check_texts(request)
        while True:
            try:
                return await self._submit(request)
            except Overloaded as error:
                # A stream has read no more than it may: it waits where single calls are refused.
                await asyncio.sleep(error.retry_after_s)

    async def _submit(self, request: pb.SubmitFeedbackRequest) -> pb.SubmitFeedbackResponse:
        receipt = await self.store().submit(_feedback(request))
        return pb.SubmitFeedbackResponse(
            label_id=receipt.label_id,
            pair_id=receipt.pair_id,
            sha256_a=receipt.image_a,
            sha256_b=receipt.image_b,
            created=receipt.created,
        )

    async def ListPairs(  # noqa: N802
        self,
        request: pb.ListPairsRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.ListPairsResponse:
        consensus = _label("consensus", request.consensus) if request.consensus else None
        pairs, token = await self.store().list_pairs(
            consensus, request.page_size, request.page_token
        )
        return pb.ListPairsResponse(pairs=map(_pair, pairs), next_page_token=token)

    async def GetImage(  # noqa: N802
        self,
        request: pb.GetImageRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetImageResponse:
        face, stored_at = await self.store().get_image(request.sha256.lower())
        return pb.GetImageResponse(image=face_to_proto(face), stored_at=pack_timestamp(stored_at))

    async def ExportPairs(  # noqa: N802
        self,
        request: pb.ExportPairsRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.ExportPairsResponse]:
        async for snapshot_id, pairs in self.store().export(request.snapshot_id):
            yield pb.ExportPairsResponse(snapshot_id=snapshot_id, pairs=map(_labelled_pair, pairs))

    async def GetStats(  # noqa: N802
        self,
        request: pb.GetStatsRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.GetStatsResponse:
        stats = await self.store().stats()
        return pb.GetStatsResponse(
            images=stats.images,
            pairs=stats.pairs,
            labels=stats.labels,
            annotators=stats.annotators,
            pairs_same=stats.pairs_same,
            pairs_different=stats.pairs_different,
            pairs_undecided=stats.pairs_undecided,
        )


def _feedback(request: pb.SubmitFeedbackRequest) -> Feedback:
    opinion = request.opinion
    return Feedback(
        image_a=face_or_hash_from_proto(request.image_a, "image_a"),
        image_b=face_or_hash_from_proto(request.image_b, "image_b"),
        label=_label("label", request.label),
        annotator=request.annotator,
        idempotency_key=request.idempotency_key,
        opinion=Opinion(opinion.model_version, opinion.similarity, opinion.threshold)
        if request.HasField("opinion")
        else None,
        sureness=request.sureness if request.HasField("sureness") else None,
    )


def _label(field: str, number: pb.Label.ValueType) -> Label:
    label = _LABELS.get(number)
    if label is None:
        raise InvalidInput(
            field, f"is {number}; LABEL_SAME, LABEL_DIFFERENT and LABEL_UNSURE are possible"
        )
    return label


def _pair(pair: PairSummary) -> pb.Pair:
    return pb.Pair(
        pair_id=pair.pair_id,
        sha256_a=pair.image_a,
        sha256_b=pair.image_b,
        consensus=_NUMBERS[pair.consensus] if pair.consensus else pb.LABEL_UNSPECIFIED,
        confidence=pair.confidence,
        votes_same=pair.votes_same,
        votes_different=pair.votes_different,
        votes_unsure=pair.votes_unsure,
        last_labelled=pack_timestamp(pair.last_labelled),
    )


def _labelled_pair(pair: LabelledPair) -> pb.LabelledPair:
    return pb.LabelledPair(
        sha256_a=pair.image_a,
        sha256_b=pair.image_b,
        label=_NUMBERS[pair.label],
        confidence=pair.confidence,
        votes=[
            pb.Vote(annotator=annotator, label=_NUMBERS[label])
            for annotator, label in pair.votes.items()
        ],
    )
