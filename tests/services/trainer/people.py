"""Rendered people for tests that submit feedback."""

import cv2
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from cli.rendering.renderer import render_person


def encode(person: int, image: int) -> bytes:
    """Render a picture of a person as PNG."""
    return cv2.imencode(".png", render_person(person, image))[1].tobytes()


def submit(
    stub: feedback_pb2_grpc.FeedbackServiceStub,
    face_a: bytes,
    face_b: bytes,
    label: pb.Label.ValueType,
    annotator: str = "ada",
) -> pb.SubmitFeedbackResponse:
    """Label a pair of aligned crops."""
    request = pb.SubmitFeedbackRequest(
        image_a=_aligned(face_a),
        image_b=_aligned(face_b),
        label=label,
        annotator=annotator,
        idempotency_key=f"{annotator}-{hash((face_a, face_b, label))}",
    )
    return stub.SubmitFeedback(request, timeout=10)


def submit_people(stub: feedback_pb2_grpc.FeedbackServiceStub, people: int, images: int) -> int:
    """Label each picture of a person with their next one, and with the next person's.

    Returns:
        The number of labelled pairs.
    """
    faces = [[encode(person, image) for image in range(images)] for person in range(people)]
    pairs = 0
    for person, own in enumerate(faces):
        others = faces[(person + 1) % people]
        for image in range(images - 1):
            submit(stub, own[image], own[image + 1], pb.LABEL_SAME)
            submit(stub, own[image], others[image], pb.LABEL_DIFFERENT)
            pairs += 2
    return pairs


def _aligned(data: bytes) -> pb.ImageRef:
    return pb.ImageRef(image=image_pb2.Image(data=data, alignment=image_pb2.ALIGNMENT_ALIGNED))
