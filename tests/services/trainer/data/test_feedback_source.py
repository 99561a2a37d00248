"""Pulling a data snapshot and its images from the feedback service."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.trainer.data.batches import decode_images
from services.trainer.data.feedback_source import PulledFeedback, pull_snapshot
from services.trainer.data.labels import LabelledPair, Vote
from shared.errors import NotFound, Unavailable
from shared.model.image.face import Box, FaceImage
from shared.model.image.face_reader import FaceReader
from shared.rpc.channel import open_sync_channel
from shared.rpc.converters import face_to_proto
from shared.settings import ImageLimits
from tests.services.trainer.people import encode, submit
from tests.support.photographs import GROUP, encode_jpeg, photograph
from tests.support.processes import ServiceProcess, service_environment
from tests.support.seaweedfs import SeaweedServer

FACES = [encode(person, 0) for person in range(4)]
A, B, C, D = (hashlib.sha256(face).hexdigest() for face in FACES)


@pytest.fixture(scope="module")
def channel(
    make_database: Callable[[], str],
    seaweedfs: SeaweedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[grpc.Channel]:
    s3 = seaweedfs.settings().model_copy(update={"s3_bucket": "pulled-feedback"})
    folder = tmp_path_factory.mktemp("feedback")
    environment = service_environment(make_database(), s3)
    with (
        ServiceProcess("services.feedback", folder, environment) as service,
        open_sync_channel(service.start()) as channel,
    ):
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        submit(stub, FACES[0], FACES[1], pb.LABEL_SAME, "ada")
        submit(stub, FACES[0], FACES[1], pb.LABEL_SAME, "bob")
        submit(stub, FACES[0], FACES[1], pb.LABEL_UNSURE, "eve")
        submit(stub, FACES[0], FACES[2], pb.LABEL_DIFFERENT, "ada")
        yield channel


def pulled(channel: grpc.Channel, snapshot_id: str | None, cache: Path) -> PulledFeedback:
    return PulledFeedback(channel, pull_snapshot(channel, snapshot_id), cache)


def by_images(pairs: Iterator[LabelledPair]) -> dict[frozenset[str], LabelledPair]:
    return {frozenset((pair.sha256_a, pair.sha256_b)): pair for pair in pairs}


def test_pairs_come_with_their_votes(channel: grpc.Channel, tmp_path: Path):
    feedback = pulled(channel, None, tmp_path / "images")
    pairs = by_images(feedback.pairs())
    assert pairs.keys() == {frozenset((A, B)), frozenset((A, C))}
    assert pairs[frozenset((A, B))].same
    assert set(pairs[frozenset((A, B))].votes) == {
        Vote("ada", True),
        Vote("bob", True),
        Vote("eve", None),
    }
    assert not pairs[frozenset((A, C))].same
    assert list(feedback.pairs()) == list(feedback.pairs())


def test_a_snapshot_stays_as_it_was(channel: grpc.Channel, tmp_path: Path):
    before = pulled(channel, None, tmp_path / "before")
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
    submit(stub, FACES[2], FACES[3], pb.LABEL_SAME, "ada")
    again = pulled(channel, before.snapshot_id, tmp_path / "again")
    assert again.snapshot_id == before.snapshot_id
    assert list(again.pairs()) == list(before.pairs())
    now = pulled(channel, None, tmp_path / "now")
    assert now.snapshot_id != before.snapshot_id
    assert frozenset((C, D)) in by_images(now.pairs())


def test_an_unknown_snapshot_is_not_found(channel: grpc.Channel, tmp_path: Path):
    with pytest.raises(NotFound):
        pulled(channel, "00000000-0000-0000-0000-000000000000", tmp_path / "images")


def test_images_come_as_they_were_sent_and_are_fetched_once(channel: grpc.Channel, tmp_path: Path):
    feedback = pulled(channel, None, tmp_path / "images")
    reported: list[tuple[int, int]] = []
    feedback.fetch_all(lambda done, of: reported.append((done, of)))
    wanted = {sha for pair in feedback.pairs() for sha in (pair.sha256_a, pair.sha256_b)}
    assert reported == [(done, len(wanted)) for done in range(1, len(wanted) + 1)]
    cut_off = grpc.insecure_channel("127.0.0.1:9")
    feedback._stub = feedback_pb2_grpc.FeedbackServiceStub(cut_off)
    assert feedback.image(A) == FaceImage(FACES[0], "aligned")
    assert {path.name for path in (tmp_path / "images").iterdir()} == wanted


def test_a_photograph_is_cropped_by_the_box_that_it_was_labelled_with(
    channel: grpc.Channel, tmp_path: Path
):
    left, top, side = GROUP[1][2:]
    box = Box(left, top, side, side)
    photo = FaceImage(encode_jpeg(photograph(*GROUP)), "detect", box=box)
    card = FaceImage(encode_jpeg(photograph((1, 1, 60, 60, 200))), "detect")
    label = pb.SubmitFeedbackRequest(
        image_a=pb.ImageRef(image=face_to_proto(photo)),
        image_b=pb.ImageRef(image=face_to_proto(card)),
        label=pb.LABEL_SAME,
        annotator="ada",
        idempotency_key="boxed",
    )
    sha256 = feedback_pb2_grpc.FeedbackServiceStub(channel).SubmitFeedback(label).sha256_a
    feedback = pulled(channel, None, tmp_path / "images")
    assert feedback.image(sha256) == photo
    reader = FaceReader(ImageLimits())
    decoded = decode_images([sha256], feedback, reader, tmp_path / "crops", lambda _: None)
    assert decoded.images == [sha256]
    # Without the box, the large face is cropped.
    large = reader.read(FaceImage(photo.data, "detect"))
    chosen = reader.read(photo)
    assert chosen.face != large.face
    np.testing.assert_array_equal(decoded.crops[0], chosen.pixels)


def test_an_image_that_is_not_stored_is_not_found(channel: grpc.Channel, tmp_path: Path):
    feedback = pulled(channel, None, tmp_path / "images")
    with pytest.raises(NotFound):
        feedback.image("0" * 64)


def test_a_service_that_is_away_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable), open_sync_channel("127.0.0.1:9") as channel:
        pulled(channel, None, tmp_path / "images")
