"""The methods of the contract that the client calls."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from magface_client.channels import Service
from magface_client.stubs import embedder_pb2, feedback_pb2, trainer_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_SERVICES: Final = {
    "embedder": embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
    "feedback": feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
    "trainer": trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"],
}
_SAFE: Final = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


@dataclass(frozen=True)
class Method(Generic[_Request, _Response]):
    """A method with the types of its messages.

    Attributes:
        service: The service that has it.
        request: Type of its requests.
        response: Type of its responses.
    """

    service: Service
    name: str
    request: type[_Request]
    response: type[_Response]

    @property
    def path(self) -> str:
        """The path of its HTTP/2 requests."""
        return f"/{_SERVICES[self.service].full_name}/{self.name}"

    def may_be_repeated(self, request: _Request) -> bool:
        """Say whether a call may be made again without knowing how the first one ended."""
        if self._descriptor.GetOptions().idempotency_level not in _SAFE:
            return False
        keyed = "idempotency_key" in request.DESCRIPTOR.fields_by_name
        return not keyed or bool(getattr(request, "idempotency_key", ""))

    @property
    def _descriptor(self) -> MethodDescriptor:
        return _SERVICES[self.service].methods_by_name[self.name]


EMBED: Final = Method("embedder", "Embed", embedder_pb2.EmbedRequest, embedder_pb2.EmbedResponse)
EMBED_STREAM: Final = Method(
    "embedder", "EmbedStream", embedder_pb2.EmbedStreamRequest, embedder_pb2.EmbedStreamResponse
)
VERIFY: Final = Method(
    "embedder", "Verify", embedder_pb2.VerifyRequest, embedder_pb2.VerifyResponse
)
DETECT_FACES: Final = Method(
    "embedder", "DetectFaces", embedder_pb2.DetectFacesRequest, embedder_pb2.DetectFacesResponse
)
GET_MODEL: Final = Method(
    "embedder", "GetModel", embedder_pb2.GetModelRequest, embedder_pb2.GetModelResponse
)
SUBMIT_FEEDBACK: Final = Method(
    "feedback",
    "SubmitFeedback",
    feedback_pb2.SubmitFeedbackRequest,
    feedback_pb2.SubmitFeedbackResponse,
)
NEXT_PAIRS: Final = Method(
    "feedback", "NextPairs", feedback_pb2.NextPairsRequest, feedback_pb2.NextPairsResponse
)
GET_IMAGE: Final = Method(
    "feedback", "GetImage", feedback_pb2.GetImageRequest, feedback_pb2.GetImageResponse
)
LIST_PAIRS: Final = Method(
    "feedback", "ListPairs", feedback_pb2.ListPairsRequest, feedback_pb2.ListPairsResponse
)
LIST_AUDIT: Final = Method(
    "feedback", "ListAudit", feedback_pb2.ListAuditRequest, feedback_pb2.ListAuditResponse
)
LIST_JOBS: Final = Method(
    "trainer", "ListJobs", trainer_pb2.ListJobsRequest, trainer_pb2.ListJobsResponse
)
LIST_MODELS: Final = Method(
    "trainer", "ListModels", trainer_pb2.ListModelsRequest, trainer_pb2.ListModelsResponse
)
LIST_OPERATING_POINTS: Final = Method(
    "trainer",
    "ListOperatingPoints",
    trainer_pb2.ListOperatingPointsRequest,
    trainer_pb2.ListOperatingPointsResponse,
)
LIST_PROMOTIONS: Final = Method(
    "trainer",
    "ListPromotions",
    trainer_pb2.ListPromotionsRequest,
    trainer_pb2.ListPromotionsResponse,
)
LIST_EVALUATIONS: Final = Method(
    "trainer",
    "ListEvaluations",
    trainer_pb2.ListEvaluationsRequest,
    trainer_pb2.ListEvaluationsResponse,
)
LIST_SUSPECTS: Final = Method(
    "trainer", "ListSuspects", trainer_pb2.ListSuspectsRequest, trainer_pb2.ListSuspectsResponse
)
LIST_LEFT_OUT: Final = Method(
    "trainer", "ListLeftOut", trainer_pb2.ListLeftOutRequest, trainer_pb2.ListLeftOutResponse
)
