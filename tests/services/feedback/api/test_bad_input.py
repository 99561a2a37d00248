"""Tests of invalid input: each is refused naming the field, and nothing is stored."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_status.rpc_status import from_call
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from services.feedback.settings import FeedbackSettings
from shared.settings import ObjectStoreSettings
from tests.services.feedback.support.helpers import (
    NOTHING,
    Stored,
    known,
    picture,
    request,
    sent,
    settings_for,
    sha256,
)

Stub = feedback_pb2_grpc.FeedbackServiceStub


@pytest.fixture
def settings(database_url: str, object_store_settings: ObjectStoreSettings) -> FeedbackSettings:
    return settings_for(
        database_url, object_store_settings, image_max_bytes=100_000, image_max_pixels=250_000
    )


def _header_only_png(width: int, height: int) -> bytes:
    """A PNG with a valid header of this size and nothing else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def _image(data: bytes, **fields: Any) -> pb.ImageRef:
    return pb.ImageRef(image=image_pb2.Image(data=data, **fields))


def _points(*pairs: tuple[float, float]) -> list[image_pb2.Point]:
    return [image_pb2.Point(x=x, y=y) for x, y in pairs]


def _boxed(
    alignment: image_pb2.Alignment.ValueType = image_pb2.ALIGNMENT_DETECT, **changes: float
) -> pb.ImageRef:
    sides = {"x": 1.0, "y": 1.0, "width": 9.0, "height": 9.0} | changes
    return _image(picture(3), alignment=alignment, box=image_pb2.Box(**sides))


def _opinion(similarity: float, version: str = "v") -> pb.ModelOpinion:
    return pb.ModelOpinion(model_version=version, similarity=similarity, threshold=0.4)


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "empty": ("image_a.image.data", {"image_a": _image(b"")}),
    "truncated": ("image_a.image.data", {"image_a": _image(picture(1)[:-40])}),
    "not an image": ("image_a.image.data", {"image_a": _image(b"%PDF-1.7" + bytes(500))}),
    "0x0": ("image_a.image.data", {"image_a": _image(_header_only_png(0, 0))}),
    "above the size limit": ("image_a.image.data", {"image_a": _image(bytes(100_001))}),
    "above the pixel limit": (
        "image_a.image.data",
        {"image_a": _image(_header_only_png(40_000, 40_000))},
    ),
    "second image bad": ("image_b.image.data", {"image_b": _image(b"junk")}),
    "not aligned": ("image_b.image.alignment", {"image_b": _image(picture(2, 300))}),
    "unknown alignment": ("image_a.image.alignment", {"image_a": _image(picture(1), alignment=9)}),
    "four landmarks": (
        "image_a.image.landmarks",
        {"image_a": _image(picture(1), landmarks=_points((1, 1), (9, 9), (20, 5), (3, 30)))},
    ),
    "landmarks that are not numbers": (
        "image_a.image.landmarks",
        {"image_a": _image(picture(1), landmarks=_points(*[(float("nan"), 1.0)] * 5))},
    ),
    "landmarks with detection": (
        "image_a.image.landmarks",
        {
            "image_a": _image(
                picture(1), alignment=image_pb2.ALIGNMENT_DETECT, landmarks=_points((1, 1))
            )
        },
    ),
    "box without a size": ("image_a.image.box.width", {"image_a": _boxed(width=0)}),
    "box that is no number": ("image_b.image.box.y", {"image_b": _boxed(y=float("nan"))}),
    "box outside the image": ("image_a.image.box", {"image_a": _boxed(x=112)}),
    "box left of the image": ("image_a.image.box", {"image_a": _boxed(x=-9)}),
    "box without detection": (
        "image_a.image.box",
        {"image_a": _boxed(alignment=image_pb2.ALIGNMENT_UNSPECIFIED)},
    ),
    "box of an aligned crop": (
        "image_a.image.box",
        {"image_a": _boxed(alignment=image_pb2.ALIGNMENT_ALIGNED)},
    ),
    "unknown on_several": (
        "image_a.image.on_several",
        {"image_a": _image(picture(1), alignment=image_pb2.ALIGNMENT_DETECT, on_several=7)},
    ),
    "on_several of an aligned crop": (
        "image_b.image.on_several",
        {"image_b": _image(picture(2), on_several=image_pb2.ON_SEVERAL_REFUSE)},
    ),
    "no image": ("image_a", {"image_a": pb.ImageRef()}),
    "no second image": ("image_b", {"image_b": None}),
    "not a hash": ("image_a.sha256", {"image_a": pb.ImageRef(sha256="abc")}),
    "the same image twice": ("image_b", {"image_b": sent(1)}),
    "the same hash twice": ("image_b", {"image_a": known(1), "image_b": known(1)}),
    "no label": ("label", {"label": pb.LABEL_UNSPECIFIED}),
    "unknown label": ("label", {"label": 17}),
    "no annotator": ("annotator", {"annotator": ""}),
    "blank annotator": ("annotator", {"annotator": "  "}),
    "long annotator": ("annotator", {"annotator": "a" * 129}),
    "annotator with NUL": ("annotator", {"annotator": "a\0b"}),
    "no key": ("idempotency_key", {"idempotency_key": ""}),
    "long key": ("idempotency_key", {"idempotency_key": "k" * 129}),
    "surer than sure": ("sureness", {"sureness": 1.5}),
    "sureness that is no number": ("sureness", {"sureness": float("nan")}),
    "opinion of nobody": ("opinion.model_version", {"opinion": _opinion(0.5, "")}),
    "opinion beyond a cosine": ("opinion.similarity", {"opinion": _opinion(1.5)}),
    "opinion that is no number": ("opinion.similarity", {"opinion": _opinion(float("nan"))}),
}


async def _refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    violations = BadRequest()
    for detail in getattr(from_call(refused.value), "details", ()):
        detail.Unpack(violations)
    named = [violation.field for violation in violations.field_violations]
    return refused.value.code(), named[0] if named else str(refused.value.details())


async def test_bad_feedback_is_refused_by_name_and_leaves_nothing(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    found = {
        what: await _refused(stub.SubmitFeedback(request(**bad))) for what, (_, bad) in BAD.items()
    }
    assert found == {
        what: (grpc.StatusCode.INVALID_ARGUMENT, field) for what, (field, _) in BAD.items()
    }
    assert stored() == NOTHING

    assert (await stub.SubmitFeedback(request(1, 2))).created


async def test_an_unknown_hash_is_not_found_by_name(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    code, message = await _refused(stub.SubmitFeedback(request(image_a=sent(1), image_b=known(2))))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "image_b.sha256" in message
    assert sha256(2) in message
    code, message = await _refused(stub.SubmitFeedback(request(image_a=known(1), image_b=known(2))))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "image_a.sha256" in message
    assert stored() == NOTHING


@pytest.mark.parametrize(
    ("method", "bad", "code", "field"),
    [
        ("GetImage", pb.GetImageRequest(sha256="x"), "INVALID_ARGUMENT", "sha256"),
        ("GetImage", pb.GetImageRequest(sha256="0" * 64), "NOT_FOUND", "sha256"),
        ("ListPairs", pb.ListPairsRequest(page_size=-1), "INVALID_ARGUMENT", "page_size"),
        ("ListPairs", pb.ListPairsRequest(page_size=1001), "INVALID_ARGUMENT", "page_size"),
        ("ListPairs", pb.ListPairsRequest(page_token="-3"), "INVALID_ARGUMENT", "page_token"),
        ("ListPairs", pb.ListPairsRequest(page_token="9" * 40), "INVALID_ARGUMENT", "page_token"),
        ("ListPairs", pb.ListPairsRequest(consensus=9), "INVALID_ARGUMENT", "consensus"),
    ],
)
async def test_bad_questions_are_refused_by_name(
    stub: Stub, method: str, bad: Any, code: str, field: str
) -> None:
    found, named = await _refused(getattr(stub, method)(bad))
    assert found.name == code
    assert named.startswith(field)


@pytest.mark.parametrize("snapshot_id", ["nonsense", "00000000-0000-0000-0000-000000000000"])
async def test_an_unknown_snapshot_is_not_found(stub: Stub, snapshot_id: str) -> None:
    async def export() -> None:
        async for _ in stub.ExportPairs(pb.ExportPairsRequest(snapshot_id=snapshot_id)):
            pass

    code, message = await _refused(export())
    assert code is grpc.StatusCode.NOT_FOUND
    assert "snapshot_id" in message
