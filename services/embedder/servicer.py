"""gRPC servicer of the embedder: unpacks requests, calls the service, packs responses."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from math import inf

import numpy as np
from magface.v1 import embedder_pb2 as pb
from magface.v1 import embedder_pb2_grpc

from services.embedder.embedding.service import FaceEmbedder
from services.embedder.embedding.stream import FaceStream, StreamedFace, StreamedResult
from services.embedder.embedding.verification import Side, StoredEmbedding, Verdict
from services.embedder.inference.requests import EmbeddedFace
from services.embedder.models.resident import ResidentModels
from services.embedder.rollout.shadow import ShadowEvaluator
from services.embedder.rollout.swapper import Swapper
from shared.errors import InvalidInput, without_frames
from shared.model.image.face import FaceImage
from shared.rpc.converters import detected_face_to_proto, face_from_proto, pack_timestamp
from shared.rpc.errors import status_code
from shared.rpc.server.error_status import log_fault
from shared.rpc.server.interceptors import Context
from shared.rpc.server.requests import check_texts


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """See ``protos/magface/v1/embedder.proto``."""

    def __init__(
        self,
        embedder: FaceEmbedder,
        open_stream: Callable[[], FaceStream],
        models: ResidentModels,
        swapper: Swapper,
        shadow: ShadowEvaluator,
    ) -> None:
        self._open_stream = open_stream
        self._embedder = embedder
        self._shadow = shadow
        self._models = models
        self._swapper = swapper

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        faces = [
            face_from_proto(image, f"images[{index}]") for index, image in enumerate(request.images)
        ]
        embedded = await self._embedder.embed(faces, _deadline(context), request.model_version)
        return pb.EmbedResponse(
            faces=[_pack_face(face) for face in embedded.faces],
            model_version=embedded.model_version,
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        faces = _unpack_stream(request_iterator)
        async with aclosing(self._open_stream().results(faces)) as results:
            async for result in results:
                yield _pack_streamed(result)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        a, b = _unpack_side(request.a, "a"), _unpack_side(request.b, "b")
        minimum = request.minimum_quality if request.HasField("minimum_quality") else None
        verdict = await self._embedder.verify(
            a, b, _deadline(context), request.model_version, minimum
        )
        return pb.VerifyResponse(
            similarity=verdict.similarity,
            threshold=verdict.threshold,
            decision=_pack_decision(verdict),
            model_version=verdict.model_version,
            face_a=_pack_face(verdict.face_a) if verdict.face_a else None,
            face_b=_pack_face(verdict.face_b) if verdict.face_b else None,
            probability=verdict.probability,
            false_match_rate=verdict.false_match_rate,
            kept_fmr=verdict.rule.kept_fmr,
            unsure_reason=verdict.unsure_reason,
        )

    async def DetectFaces(
        self, request: pb.DetectFacesRequest, context: Context
    ) -> pb.DetectFacesResponse:
        face = face_from_proto(request.image, "image")
        detection = await self._embedder.detect(face, _deadline(context))
        return pb.DetectFacesResponse(
            width=detection.width,
            height=detection.height,
            faces=map(detected_face_to_proto, detection.faces),
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        stats = self._shadow.stats
        response = pb.GetModelResponse(
            pending_version=self._swapper.pending_version,
            swap_error=self._swapper.swap_error,
            resident_versions=self._models.versions,
            shadow_version=stats.model_version,
            shadow_pairs=stats.pairs,
            shadow_agreement=stats.agreement,
            shadow_similarity_shift=stats.similarity_shift,
            shadow_error=stats.error,
        )
        if serving := self._models.serving:
            manifest, session = serving.model.manifest, serving.model.session
            rule, since = serving.rule, self._models.serving_since
            response.MergeFrom(
                pb.GetModelResponse(
                    model_version=manifest.model_version,
                    architecture=manifest.architecture,
                    embedding_size=manifest.embedding_size,
                    channel_order=manifest.channel_order,
                    threshold=rule.threshold,
                    engine=f"{session.engine}:{session.device}",
                    serving_since=pack_timestamp(since) if since else None,
                    compatible_versions=manifest.compatible_versions,
                    target_fmr=rule.target.target_fmr,
                    kept_fmr=rule.kept_fmr,
                    prior=rule.target.prior,
                    serving_generation=self._swapper.generation,
                )
            )
        return response


def _deadline(context: Context) -> float:
    left = context.time_remaining()
    return inf if left is None else time.monotonic() + left


def _unpack_side(side: pb.VerifySide, field: str) -> Side:
    match side.WhichOneof("side"):
        case "image":
            return face_from_proto(side.image, f"{field}.image")
        case "stored":
            stored = side.stored
            magnitude = stored.magnitude if stored.HasField("magnitude") else None
            return StoredEmbedding(stored.embedding, stored.model_version, magnitude)
        case _:
            raise InvalidInput(field, "is not set; give an image or a stored embedding")


def _pack_decision(verdict: Verdict) -> pb.Decision.ValueType:
    if verdict.unsure_reason:
        return pb.DECISION_UNSURE
    return pb.DECISION_SAME if verdict.same else pb.DECISION_DIFFERENT


async def _unpack_stream(
    requests: AsyncIterator[pb.EmbedStreamRequest],
) -> AsyncIterator[StreamedFace]:
    async for request in requests:
        yield _unpack_streamed(request)
        # While the stream waits for the next request it holds none.
        del request


def _unpack_streamed(request: pb.EmbedStreamRequest) -> StreamedFace:
    face: FaceImage | InvalidInput
    try:
        check_texts(request)
        face = face_from_proto(request.image, "image")
    except InvalidInput as error:
        face = without_frames(error)
    return StreamedFace(request.id, face, request.model_version)


def _pack_streamed(streamed: StreamedResult) -> pb.EmbedStreamResponse:
    response = pb.EmbedStreamResponse(id=streamed.id, model_version=streamed.model_version)
    if isinstance(streamed.result, EmbeddedFace):
        response.face.CopyFrom(_pack_face(streamed.result))
    else:
        log_fault("EmbedStream", streamed.result)
        response.error.code = status_code(streamed.result).value[0]
        response.error.message = str(streamed.result)
    return response


def _pack_face(face: EmbeddedFace) -> pb.FaceEmbedding:
    return pb.FaceEmbedding(
        embedding=np.asarray(face.embedding, dtype="<f4").tobytes(),
        magnitude=face.magnitude,
        quality=face.quality,
        faces_found=face.faces_found,
        no_face=face.no_face,
        detected_face=detected_face_to_proto(face.detected) if face.detected else None,
    )
