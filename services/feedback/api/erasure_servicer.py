"""gRPC servicer: erasure and audit log."""

import json
from dataclasses import dataclass

from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.erasure.audit import AuditEntry, AuditLog, Erasure
from services.feedback.erasure.eraser import Eraser
from shared.rpc.converters import pack_timestamp
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.interceptors import Context


@dataclass(frozen=True, slots=True)
class ErasureBackend:
    """What the servicer calls."""

    eraser: Eraser
    audit: AuditLog


class ErasureServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Erasure methods of FeedbackService; UNAVAILABLE until `erasure` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.erasure: Deferred[ErasureBackend] = Deferred("the service")

    async def DeleteImage(
        self, request: pb.DeleteImageRequest, context: Context
    ) -> pb.DeleteImageResponse:
        erasure = await self.erasure().eraser.erase_image(
            request.sha256.lower(), request.requested_by, request.request_id
        )
        return pb.DeleteImageResponse(erasure=_pack_erasure(erasure))

    async def DeleteSubject(
        self, request: pb.DeleteSubjectRequest, context: Context
    ) -> pb.DeleteSubjectResponse:
        erasure = await self.erasure().eraser.erase_subject(
            request.subject, request.requested_by, request.request_id
        )
        return pb.DeleteSubjectResponse(erasure=_pack_erasure(erasure))

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> pb.ListAuditResponse:
        entries, token = await self.erasure().audit.list_entries(
            request.page_size, request.page_token
        )
        return pb.ListAuditResponse(entries=map(_pack_entry, entries), next_page_token=token)


def _pack_erasure(erasure: Erasure) -> pb.Erasure:
    return pb.Erasure(
        request_id=erasure.request_id,
        images=erasure.images,
        pairs=erasure.pairs,
        labels=erasure.labels,
        snapshot_ids=erasure.snapshot_ids,
        versions=[
            pb.TrainedVersion(model_version=one.model_version, inherited=one.inherited)
            for one in erasure.versions
        ],
        finished_at=pack_timestamp(erasure.finished_at) if erasure.finished_at else None,
    )


def _pack_entry(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        audit_id=entry.audit_id,
        at=pack_timestamp(entry.at),
        actor=entry.actor,
        action=entry.action,
        request_id=entry.request_id,
        detail=json.dumps(entry.detail),
    )
