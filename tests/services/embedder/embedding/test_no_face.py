"""Aligned crops that show no face are refused, or marked and never the same person."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from services.embedder.embedding.verification import compare
from services.embedder.inference.requests import EmbeddedFace
from services.embedder.models.decision_rule import NO_TARGET, DecisionRule
from services.embedder.models.resident import ActiveModel
from shared.errors import InvalidInput
from shared.model.image.face import FaceImage
from tests.services.embedder.domain import FACES, Service
from tests.services.embedder.faces import crops, jpeg, png
from tests.services.embedder.standin import manifest, model
from tests.shared.model.no_face import no_face_kinds

NO_FACE = {kind: made[0] for kind, made in no_face_kinds(crops(1)).items()}
BLACK = np.zeros((112, 112, 3), np.uint8)
ONE_PIXEL = np.full((1, 1, 3), 90, np.uint8)


@pytest.fixture
async def service():
    async with Service(cache_bytes=2**20) as service:
        service.models.serve(model("v1"))
        yield service


async def test_every_kind_is_refused_by_name_in_each_file_format(service):
    pictures = [encode(crop) for crop in NO_FACE.values() for encode in (png, jpeg)]
    for data in [*pictures, png(BLACK), jpeg(BLACK), png(ONE_PIXEL)]:
        with pytest.raises(InvalidInput, match=r"^images\[1\]\.data: shows no face") as refused:
            await service.faces.embed([FACES[0], FaceImage(data, "aligned")], inf)
        assert refused.value.field == "images[1].data"
    unspecified = FaceImage(png(BLACK))
    with pytest.raises(InvalidInput, match=r"^b\.image\.data: shows no face"):
        await service.faces.verify(FACES[0], unspecified, inf)


async def test_landmarks_beside_the_face_are_blamed(service):
    corner = ((2.0, 2.0), (9.0, 2.0), (6.0, 6.0), (3.0, 10.0), (8.0, 10.0))
    face = FaceImage(FACES[0].data, "landmarks", corner)
    with pytest.raises(InvalidInput, match=r"^images\[0\]\.data: shows no face where the landm"):
        await service.faces.embed([face], inf)


async def test_a_caller_who_insists_gets_a_mark_and_never_same(service):
    black = FaceImage(png(BLACK), "aligned", on_no_face="mark")
    noise = replace(black, data=png(NO_FACE["Gaussian noise"]))
    for a, b in ((black, black), (black, noise), (black, FACES[0]), (FACES[0], black)):
        for _ in range(2):
            verdict = await service.faces.verify(a, b, inf)
            assert not verdict.same
            marks = [face.no_face for face in (verdict.face_a, verdict.face_b)]
            assert marks == [a is not FACES[0], b is not FACES[0]]
    # A marked embedding in the cache is no answer for a caller who does not insist.
    with pytest.raises(InvalidInput, match="shows no face"):
        await service.faces.embed([replace(black, on_no_face="refuse")], inf)


async def test_a_face_is_not_marked(service):
    marked = [replace(face, on_no_face="mark") for face in FACES]
    assert not any(face.no_face for face in (await service.faces.embed(marked, inf)).faces)
    verdict = await service.faces.verify(marked[0], marked[0], inf)
    assert verdict.same


async def test_an_image_to_detect_a_face_in_cannot_be_marked(service):
    face = FaceImage(FACES[0].data, "detect", on_no_face="mark")
    with pytest.raises(InvalidInput, match="on_no_face"):
        await service.faces.embed([face], inf)


def test_equal_vectors_are_not_the_same_person_without_a_face():
    unit = np.eye(8, dtype=np.float32)[0]
    face = EmbeddedFace(unit, 1.0, 0.5)
    active = ActiveModel(model("v1"), DecisionRule.of(manifest("v1"), NO_TARGET))
    for sides in (
        {"a": replace(face, no_face=True)},
        {"a": face, "b": replace(face, no_face=True)},
    ):
        verdict = compare({"a": unit, "b": unit}, sides, active)
        assert (verdict.similarity, verdict.same) == (1.0, False)
    assert compare({"a": unit, "b": unit}, {"a": face}, active).same
