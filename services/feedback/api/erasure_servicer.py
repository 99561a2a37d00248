"""gRPC servicer: erasure and audit log."""

import json
from dataclasses import dataclass

from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.erasure.audit import AuditEntry, AuditLog, Erasure
from services.feedback.erasure.eraser import Eraser
from services.feedback.erasure.held import HeldErasure, HeldErasures
from shared.rpc.converters import pack_timestamp
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.interceptors import Context


@dataclass(frozen=True, slots=True)
class ErasureBackend:
    """What the servicer calls."""

    eraser: Eraser
    audit: AuditLog
    held: HeldErasures


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

    async def AllowImage(
        self, request: pb.AllowImageRequest, context: Context
    ) -> pb.AllowImageResponse:
        eraser = self.erasure().eraser
        was_refused = await eraser.allow_image(request.sha256.lower(), request.requested_by)
        return pb.AllowImageResponse(was_refused=was_refused)

    async def ListHeldErasures(
        self, request: pb.ListHeldErasuresRequest, context: Context
    ) -> pb.ListHeldErasuresResponse:
        held = await self.erasure().held.list()
        return pb.ListHeldErasuresResponse(erasures=map(_pack_held, held))

    async def ApproveHeldErasure(
        self, request: pb.ApproveHeldErasureRequest, context: Context
    ) -> pb.ApproveHeldErasureResponse:
        approved = await self.erasure().held.approve(
            request.rule, request.images, request.requested_by
        )
        return pb.ApproveHeldErasureResponse(erasure=_pack_held(approved))


def _pack_held(held: HeldErasure) -> pb.HeldErasure:
    return pb.HeldErasure(
        rule=held.rule,
        images=held.images,
        stored_before=pack_timestamp(held.before) if held.before else None,
        held_since=pack_timestamp(held.held_since),
        approved_by=held.approved_by or "",
    )


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
