"""Rendered faces to embed, and protobuf messages with them."""

import itertools
from functools import lru_cache

import cv2
import numpy as np
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from cli.rendering.renderer import render_person
from shared.model.image.contrast import stretch_low_contrast


def crops(count: int, seed: int = 0) -> np.ndarray:
    """uint8, (count, 112, 112, 3): faces of different people, of ordinary contrast."""
    faces = (_face(1000 * seed + person) for person in itertools.count())
    # Pixels of a low contrast would be changed before they are embedded.
    ordinary = (face for face in faces if stretch_low_contrast(face) is face)
    return np.stack(list(itertools.islice(ordinary, count)))


def png(crop: np.ndarray) -> bytes:
    return cv2.imencode(".png", crop)[1].tobytes()


def jpeg(crop: np.ndarray) -> bytes:
    """A file that is small enough to be decoded on the event loop."""
    return cv2.imencode(".jpg", crop)[1].tobytes()


def image(crop: np.ndarray) -> image_pb2.Image:
    return image_pb2.Image(data=png(crop), alignment=image_pb2.ALIGNMENT_ALIGNED)


def large_image(number: int) -> image_pb2.Image:
    """A photograph of 12 megapixels without a face, which decode processes read."""
    landmarks = [(180, 240), (320, 240), (250, 320), (190, 400), (310, 400)]
    return image_pb2.Image(
        data=_large_jpeg() + number.to_bytes(4, "big"),
        alignment=image_pb2.ALIGNMENT_LANDMARKS,
        landmarks=[image_pb2.Point(x=x, y=y) for x, y in landmarks],
        on_no_face=image_pb2.ON_NO_FACE_MARK,
    )


def image_side(crop: np.ndarray) -> pb.VerifySide:
    return pb.VerifySide(image=image(crop))


def stored_side(embedding: np.ndarray | bytes, version: str) -> pb.VerifySide:
    data = embedding if isinstance(embedding, bytes) else embedding.astype("<f4").tobytes()
    return pb.VerifySide(stored=pb.StoredEmbedding(embedding=data, model_version=version))


def vector(face: pb.FaceEmbedding) -> np.ndarray:
    return np.frombuffer(face.embedding, "<f4")


@lru_cache(maxsize=1)
def _large_jpeg() -> bytes:
    rough = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return jpeg(cv2.resize(rough, (4000, 3000), interpolation=cv2.INTER_CUBIC))


@lru_cache(maxsize=1024)
def _face(person: int) -> np.ndarray:
    return render_person(person, 0)
