"""Helpers: small images, requests with them, and a running service."""

import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import grpc
import numpy as np
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2
from pydantic import SecretStr

from services.feedback.images.damaged import DamagedImages
from services.feedback.images.vault import ImageVault
from services.feedback.labels.types import Feedback, Label
from services.feedback.server import NewVault, feedback_service
from services.feedback.settings import FeedbackSettings
from shared.decoding.admission import Admission
from shared.model.image.face import FaceImage
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.support.decoding import decode_pool

_keys = itertools.count()


@dataclass(frozen=True)
class Stored:
    """Numbers of rows of each table, and of objects."""

    images: int
    pairs: int
    labels: int
    annotators: int
    pair_consensus: int
    objects: int


NOTHING = Stored(0, 0, 0, 0, 0, 0)


def settings_for(
    database_url: str, objects: ObjectStoreSettings, **changes: Any
) -> FeedbackSettings:
    return FeedbackSettings(
        database_url=SecretStr(database_url),
        s3_endpoint=objects.s3_endpoint,
        s3_access_key=objects.s3_access_key,
        s3_secret_key=objects.s3_secret_key,
        s3_bucket=objects.s3_bucket,
        **changes,
    )


@asynccontextmanager
async def channel_on(settings: FeedbackSettings) -> AsyncIterator[grpc.aio.Channel]:
    """Run the service in this process and connect to it; calls wait until it is ready."""
    service = partial(feedback_service, settings)
    async with (
        running_server(settings, "magface.v1.FeedbackService", service) as address,
        open_channel(address) as channel,
    ):
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        await stub.GetStats(pb.GetStatsRequest(), wait_for_ready=True, timeout=10)
        yield channel


@asynccontextmanager
async def stub_on(
    settings: FeedbackSettings,
) -> AsyncIterator[feedback_pb2_grpc.FeedbackServiceStub]:
    """As `channel_on`, with a stub on the channel."""
    async with channel_on(settings) as channel:
        yield feedback_pb2_grpc.FeedbackServiceStub(channel)


@cache
def picture(number: int, size: int = 112) -> bytes:
    """Make a PNG; each number gives another one."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    large = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", large)[1].tobytes()


def marked(data: bytes, **fields: Any) -> image_pb2.Image:
    """Make an image for an import, which is stored although it shows no face."""
    return image_pb2.Image(data=data, on_no_face=image_pb2.ON_NO_FACE_MARK, **fields)


def sha256(number: int) -> str:
    return hashlib.sha256(picture(number)).hexdigest()


def sent(number: int) -> pb.ImageRef:
    return pb.ImageRef(image=image_pb2.Image(data=picture(number)))


def known(number: int) -> pb.ImageRef:
    return pb.ImageRef(sha256=sha256(number))


def fresh_key() -> str:
    return f"key-{next(_keys)}"


def request(a: int = 1, b: int = 2, **changes: Any) -> pb.SubmitFeedbackRequest:
    """Make a valid request with two images; changes replace its fields."""
    fields: dict[str, Any] = {
        "image_a": sent(a),
        "image_b": sent(b),
        "label": pb.LABEL_SAME,
        "annotator": "ann",
        "idempotency_key": fresh_key(),
    }
    return pb.SubmitFeedbackRequest(**(fields | changes))


def feedback(a: int = 1, b: int = 2, **changes: Any) -> Feedback:
    """Make valid feedback with two images; changes replace its fields."""
    fields: dict[str, Any] = {
        "image_a": FaceImage(picture(a)),
        "image_b": FaceImage(picture(b)),
        "label": Label.SAME,
        "annotator": "ann",
        "idempotency_key": fresh_key(),
    }
    return Feedback(**(fields | changes))


def vaults(settings: FeedbackSettings, objects: ObjectStore) -> NewVault:
    """Make vaults that share the decode processes of this test process."""
    admission = Admission(4096, 2**28)
    threads = settings.feedback_image_threads
    wait_s = 3 * settings.s3_timeout_s
    return partial(
        ImageVault,
        objects,
        decode_pool(),
        admission,
        threads,
        wait_s=wait_s,
        damaged=DamagedImages(),
    )
