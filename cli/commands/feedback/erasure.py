"""``magface feedback erase-image``, ``erase-subject`` and ``audit``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from magface.v1 import feedback_pb2
from rich.console import RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, feedback, new_key
from cli.output import JsonOption, emit, facts, short_time, table, to_plain

AuditedByOption = Annotated[
    str,
    typer.Option(
        "--by", help="Name of the requester; stored in the audit trail.", show_default=False
    ),
]
RequestOption = Annotated[
    str,
    typer.Option(
        "--request",
        help="Id of the request, kept forever: a ticket number, not a person's name. "
        "Random by default; give the same id again to see the progress.",
        show_default=False,
    ),
]


def erase_image(
    *,
    sha256: Annotated[str, typer.Argument(show_default=False, help="SHA-256 of the image file.")],
    by: AuditedByOption,
    request_id: RequestOption = "",
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase an image, its pairs and labels, and list the versions trained on it."""
    request = feedback_pb2.DeleteImageRequest(sha256=sha256, **_requester(by, request_id))
    with feedback(folder) as stub:
        _show(as_json, stub.DeleteImage(request, timeout=CALL_TIMEOUT_S).erasure)


def erase_subject(
    *,
    subject: Annotated[
        str,
        typer.Argument(
            show_default=False,
            help="Name of the person, as in the import; upper and lower case differ.",
        ),
    ],
    by: AuditedByOption,
    request_id: RequestOption = "",
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase all images of a person with their pairs and labels; fails if there is none."""
    request = feedback_pb2.DeleteSubjectRequest(subject=subject, **_requester(by, request_id))
    with feedback(folder) as stub:
        _show(as_json, stub.DeleteSubject(request, timeout=CALL_TIMEOUT_S).erasure)


def _requester(by: str, request_id: str) -> dict[str, str]:
    return {"requested_by": by, "request_id": request_id or new_key()}


def allow_image(
    *,
    sha256: Annotated[str, typer.Argument(show_default=False, help="SHA-256 of the image file.")],
    by: AuditedByOption,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let an image that was erased on request be stored again."""
    request = feedback_pb2.AllowImageRequest(sha256=sha256, requested_by=by)
    with feedback(folder) as stub:
        plain = to_plain(stub.AllowImage(request, timeout=CALL_TIMEOUT_S))
    emit(as_json, plain, facts(plain))


def list_held(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """List what a rule would erase beyond the daily share, which waits for approval."""
    with feedback(folder) as stub:
        request = feedback_pb2.ListHeldErasuresRequest()
        held = stub.ListHeldErasures(request, timeout=CALL_TIMEOUT_S).erasures
    plain = [to_plain(one) for one in held]
    rows = [
        [
            one["rule"],
            str(one["images"]),
            short_time(one["stored_before"]),
            short_time(one["held_since"]),
            one["approved_by"],
        ]
        for one in plain
    ]
    shown = table("rule", "images", "stored before", "held since", "approved by", rows=rows)
    emit(as_json, {"erasures": plain}, shown)


def approve_held(
    *,
    rule: Annotated[str, typer.Argument(show_default=False, help="retention or orphans.")],
    images: Annotated[
        int,
        typer.Option("--images", min=1, help="How many, as listed by held-erasures."),
    ],
    by: AuditedByOption,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what a rule would erase; see held-erasures."""
    request = feedback_pb2.ApproveHeldErasureRequest(rule=rule, images=images, requested_by=by)
    with feedback(folder) as stub:
        approved = stub.ApproveHeldErasure(request, timeout=CALL_TIMEOUT_S).erasure
    plain = to_plain(approved)
    emit(as_json, plain, facts(plain))


def list_audit(
    limit: Annotated[int, typer.Option(min=1, help="Most entries to show.")] = 100,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who erased what and when, newest first."""
    with feedback(folder) as stub:

        def fetch(size: int, token: str) -> tuple[Sequence[feedback_pb2.AuditEntry], str]:
            request = feedback_pb2.ListAuditRequest(page_size=size, page_token=token)
            page = stub.ListAudit(request, timeout=CALL_TIMEOUT_S)
            return page.entries, page.next_page_token

        entries = [_plain(entry) for entry in collect_pages(fetch, limit)]
    emit(as_json, {"entries": entries}, audit_table(entries))


def audit_table(entries: Sequence[dict[str, Any]]) -> RenderableType:
    """Shows the audit trail."""
    rows = [
        [
            short_time(one["at"]),
            one["actor"],
            one["action"],
            one["request_id"],
            f"{one['detail']['images']} images, {one['detail']['labels']} labels",
        ]
        for one in entries
    ]
    return table("at", "who", "did", "request", "what", rows=rows, text=["what"])


def _plain(entry: feedback_pb2.AuditEntry) -> dict[str, Any]:
    return to_plain(entry) | {"detail": json.loads(entry.detail)}


def _show(as_json: bool, erasure: feedback_pb2.Erasure) -> None:
    result = to_plain(erasure)
    versions = [
        f"{one['model_version']} (inherited)" if one["inherited"] else one["model_version"]
        for one in result["versions"]
    ]
    readable = result | {
        "snapshot_ids": len(result["snapshot_ids"]),
        "versions": ", ".join(versions) or "none",
        "finished_at": short_time(result["finished_at"]),
    }
    emit(as_json, result, facts(readable))
