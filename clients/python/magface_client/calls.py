"""The calls of both clients: their requests, and what is made of the answers."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from google.protobuf.message import Message

from magface_client import methods
from magface_client.conversion import convert
from magface_client.methods import Method
from magface_client.pictures import (
    ImageInput,
    Labelled,
    Side,
    pack_image,
    pack_labelled,
    pack_side,
)
from magface_client.results import (
    AuditRecord,
    EvaluationRecord,
    Face,
    FacesInImage,
    JobRecord,
    LabelName,
    LeftOutRecord,
    OperatingPointRecord,
    PairRecord,
    PairsToLabel,
    PromotionRecord,
    Receipt,
    ServingInfo,
    StoredPicture,
    SuspectRecord,
    Verification,
    VersionRecord,
)
from magface_client.stubs import embedder_pb2, feedback_pb2, image_pb2, trainer_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")

StrategyName = Literal["mix", "uncertainty", "disagreement", "hard", "random"]

_PAGE_SIZE: Final = 1000
_LABELS: Final[dict[str, feedback_pb2.Label.ValueType]] = {
    "same": feedback_pb2.LABEL_SAME,
    "different": feedback_pb2.LABEL_DIFFERENT,
    "unsure": feedback_pb2.LABEL_UNSURE,
}
_STRATEGIES: Final[dict[str, feedback_pb2.Strategy.ValueType]] = {
    "mix": feedback_pb2.STRATEGY_UNSPECIFIED,
    "uncertainty": feedback_pb2.STRATEGY_UNCERTAINTY,
    "disagreement": feedback_pb2.STRATEGY_DISAGREEMENT,
    "hard": feedback_pb2.STRATEGY_HARD,
    "random": feedback_pb2.STRATEGY_RANDOM,
}
_CORRECTIONS: Final[dict[str, LabelName]] = {"same": "different", "different": "same"}
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Call(Generic[_Request, _Response, _Result]):
    """A call before it is made.

    Attributes:
        read: Makes the result from the response.
    """

    method: Method[_Request, _Response]
    request: _Request
    read: Callable[[_Response], _Result]


@dataclass(frozen=True)
class Listing(Generic[_Request, _Response, _Result]):
    """A list before its first page is fetched.

    Attributes:
        request: Of the first page, without its size.
        read: Makes the results of a page.
    """

    method: Method[_Request, _Response]
    request: _Request
    read: Callable[[_Response], Iterable[_Result]]

    def page(
        self, request: _Request
    ) -> Call[_Request, _Response, tuple[list[_Result], _Request | None]]:
        """Return the call for a page: its results, and the request of the next page if any."""
        sized = self.method.request()
        sized.CopyFrom(request)
        _set(sized, page_size=_PAGE_SIZE)
        return Call(
            self.method,
            sized,
            lambda response: (list(self.read(response)), _following(sized, response)),
        )


def verify(
    a: Side, b: Side, minimum_quality: float | None, model_version: str
) -> Call[embedder_pb2.VerifyRequest, embedder_pb2.VerifyResponse, Verification]:
    """Compare two faces."""
    request = embedder_pb2.VerifyRequest(
        a=pack_side(a), b=pack_side(b), model_version=model_version
    )
    if minimum_quality is not None:
        request.minimum_quality = minimum_quality

    def read(response: embedder_pb2.VerifyResponse) -> Verification:
        version = response.model_version
        return convert(
            Verification,
            response,
            face_a=to_face(response.face_a, version) if response.HasField("face_a") else None,
            face_b=to_face(response.face_b, version) if response.HasField("face_b") else None,
            _request=request,
            _id=secrets.token_hex(16),
        )

    return Call(methods.VERIFY, request, read)


def embed(
    images: Sequence[ImageInput], model_version: str
) -> Call[embedder_pb2.EmbedRequest, embedder_pb2.EmbedResponse, list[Face]]:
    """Embed images with one model version."""
    request = embedder_pb2.EmbedRequest(
        images=[pack_image(one) for one in images], model_version=model_version
    )
    return Call(
        methods.EMBED,
        request,
        lambda response: [to_face(one, response.model_version) for one in response.faces],
    )


def detect_faces(
    image: ImageInput,
) -> Call[embedder_pb2.DetectFacesRequest, embedder_pb2.DetectFacesResponse, FacesInImage]:
    """Find the faces in an image."""
    packed = pack_image(image)
    if packed.alignment == image_pb2.ALIGNMENT_ALIGNED:
        packed.alignment = image_pb2.ALIGNMENT_DETECT
    request = embedder_pb2.DetectFacesRequest(image=packed)
    return Call(methods.DETECT_FACES, request, lambda response: convert(FacesInImage, response))


def model() -> Call[embedder_pb2.GetModelRequest, embedder_pb2.GetModelResponse, ServingInfo]:
    """Describe the serving version."""
    request = embedder_pb2.GetModelRequest()
    return Call(methods.GET_MODEL, request, lambda response: convert(ServingInfo, response))


def feedback(
    a: Labelled,
    b: Labelled,
    label: LabelName,
    *,
    annotator: str,
    identity_a: str,
    identity_b: str,
    sureness: float | None,
    idempotency_key: str | None,
) -> Call[feedback_pb2.SubmitFeedbackRequest, feedback_pb2.SubmitFeedbackResponse, Receipt]:
    """Store a label."""
    request = feedback_pb2.SubmitFeedbackRequest(
        image_a=pack_labelled(a, identity_a),
        image_b=pack_labelled(b, identity_b),
        label=_chosen("label", label, _LABELS),
        annotator=annotator,
        idempotency_key=secrets.token_hex(16) if idempotency_key is None else idempotency_key,
        sureness=sureness,
    )
    return _submit(request)


def contest(
    verification: Verification, label: LabelName | None, *, annotator: str, sureness: float | None
) -> Call[feedback_pb2.SubmitFeedbackRequest, feedback_pb2.SubmitFeedbackResponse, Receipt]:
    """Store the label that corrects a decision, with the decision."""
    if label is None:
        label = _CORRECTIONS.get(verification.decision)
        if label is None:
            raise ValueError("the decision is unsure: give the label that is right")
    sent = verification._request
    for name, side in (("a", sent.a), ("b", sent.b)):
        if side.WhichOneof("side") != "image":
            raise ValueError(f"side {name} is a stored embedding: a label needs both images")
    request = feedback_pb2.SubmitFeedbackRequest(
        image_a=_contested(sent.a.image),
        image_b=_contested(sent.b.image),
        label=_chosen("label", label, _LABELS),
        annotator=annotator,
        # The same for a repeated call, so that its label is stored once.
        idempotency_key=_hash(verification._id, label, annotator, repr(sureness)),
        opinion=feedback_pb2.ModelOpinion(
            model_version=verification.model_version,
            similarity=verification.similarity,
            threshold=verification.threshold,
        ),
        sureness=sureness,
    )
    return _submit(request)


def next_pairs(
    annotator: str, count: int, strategy: StrategyName
) -> Call[feedback_pb2.NextPairsRequest, feedback_pb2.NextPairsResponse, PairsToLabel]:
    """Lease pairs."""
    request = feedback_pb2.NextPairsRequest(
        annotator=annotator,
        count=count,
        strategy=_chosen("strategy", strategy, _STRATEGIES),
        idempotency_key=secrets.token_hex(16),
    )
    return Call(methods.NEXT_PAIRS, request, lambda response: convert(PairsToLabel, response))


def image(
    sha256: str,
) -> Call[feedback_pb2.GetImageRequest, feedback_pb2.GetImageResponse, StoredPicture]:
    """Fetch a stored image."""
    request = feedback_pb2.GetImageRequest(sha256=sha256)
    return Call(methods.GET_IMAGE, request, lambda response: convert(StoredPicture, response))


def pairs(
    consensus: LabelName | None,
) -> Listing[feedback_pb2.ListPairsRequest, feedback_pb2.ListPairsResponse, PairRecord]:
    """List pairs."""
    request = feedback_pb2.ListPairsRequest()
    if consensus is not None:
        request.consensus = _chosen("consensus", consensus, _LABELS)
    return Listing(methods.LIST_PAIRS, request, lambda page: _records(PairRecord, page.pairs))


def audit() -> Listing[feedback_pb2.ListAuditRequest, feedback_pb2.ListAuditResponse, AuditRecord]:
    """List the audit log."""
    request = feedback_pb2.ListAuditRequest()
    return Listing(methods.LIST_AUDIT, request, lambda page: _records(AuditRecord, page.entries))


def jobs() -> Listing[trainer_pb2.ListJobsRequest, trainer_pb2.ListJobsResponse, JobRecord]:
    """List jobs."""
    request = trainer_pb2.ListJobsRequest()
    return Listing(methods.LIST_JOBS, request, lambda page: _records(JobRecord, page.jobs))


def models() -> Listing[
    trainer_pb2.ListModelsRequest, trainer_pb2.ListModelsResponse, VersionRecord
]:
    """List model versions."""
    request = trainer_pb2.ListModelsRequest()
    return Listing(methods.LIST_MODELS, request, lambda page: _records(VersionRecord, page.models))


def promotions() -> Listing[
    trainer_pb2.ListPromotionsRequest, trainer_pb2.ListPromotionsResponse, PromotionRecord
]:
    """List the serving history."""
    return Listing(
        methods.LIST_PROMOTIONS,
        trainer_pb2.ListPromotionsRequest(),
        lambda page: _records(PromotionRecord, page.promotions),
    )


def operating_points() -> Listing[
    trainer_pb2.ListOperatingPointsRequest,
    trainer_pb2.ListOperatingPointsResponse,
    OperatingPointRecord,
]:
    """List operating points."""
    return Listing(
        methods.LIST_OPERATING_POINTS,
        trainer_pb2.ListOperatingPointsRequest(),
        lambda page: _records(OperatingPointRecord, page.operating_points),
    )


def evaluations(
    model_version: str,
) -> Listing[
    trainer_pb2.ListEvaluationsRequest, trainer_pb2.ListEvaluationsResponse, EvaluationRecord
]:
    """List evaluations."""
    return Listing(
        methods.LIST_EVALUATIONS,
        trainer_pb2.ListEvaluationsRequest(model_version=model_version),
        lambda page: _records(EvaluationRecord, page.evaluations),
    )


def suspects(
    job_id: str,
) -> Listing[trainer_pb2.ListSuspectsRequest, trainer_pb2.ListSuspectsResponse, SuspectRecord]:
    """List suspected labels."""
    return Listing(
        methods.LIST_SUSPECTS,
        trainer_pb2.ListSuspectsRequest(job_id=job_id),
        lambda page: _records(SuspectRecord, page.suspects),
    )


def left_out(
    job_id: str,
) -> Listing[trainer_pb2.ListLeftOutRequest, trainer_pb2.ListLeftOutResponse, LeftOutRecord]:
    """List images that a job did not use."""
    return Listing(
        methods.LIST_LEFT_OUT,
        trainer_pb2.ListLeftOutRequest(job_id=job_id),
        lambda page: _records(LeftOutRecord, page.images),
    )


def to_face(message: embedder_pb2.FaceEmbedding, model_version: str) -> Face:
    """Convert an embedding, which has its version beside it."""
    return convert(Face, message, model_version=model_version)


def _submit(
    request: feedback_pb2.SubmitFeedbackRequest,
) -> Call[feedback_pb2.SubmitFeedbackRequest, feedback_pb2.SubmitFeedbackResponse, Receipt]:
    return Call(
        methods.SUBMIT_FEEDBACK,
        request,
        lambda response: convert(Receipt, response, idempotency_key=request.idempotency_key),
    )


def _following(request: _Request, response: Message) -> _Request | None:
    """Return the request of the page after a response; None after the last one."""
    token = str(getattr(response, "next_page_token", ""))
    if not token:
        return None
    _set(request, page_token=token)
    if "job_id" in response.DESCRIPTOR.fields_by_name:
        # The list may be of the latest job, and another one may have ended meanwhile.
        _set(request, job_id=getattr(response, "job_id", ""))
    return request


def _set(message: Message, **values: object) -> None:
    for name, value in values.items():
        setattr(message, name, value)


def _contested(image: image_pb2.Image) -> feedback_pb2.ImageRef:
    reference = feedback_pb2.ImageRef(image=image)
    # The feedback service does not use it.
    reference.image.ClearField("on_no_face")
    return reference


def _records(kind: type[_Result], messages: Iterable[Message]) -> Iterable[_Result]:
    return (convert(kind, one) for one in messages)


def _chosen(name: str, value: str, known: dict[str, _Choice]) -> _Choice:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
    return known[value]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
