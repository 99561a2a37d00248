"""Verify, with a stand-in session and no server."""

import asyncio
from dataclasses import replace
from math import inf, log, nan

import numpy as np
import pytest

from services.embedder.models.decision_rule import FmrTarget
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.face import FaceImage
from shared.model.manifest import ProbabilityCurve
from tests.services.embedder.domain import FACES, Service, held, stored
from tests.services.embedder.faces import png
from tests.services.embedder.standin import model
from tests.support.operating_curve import curve_at
from tests.support.waiting import until

CURVE = curve_at((1e-1, 0.2), (1e-2, 0.4), (1e-3, 0.97))
BLACK = FaceImage(png(np.zeros((112, 112, 3), np.uint8)), "aligned", on_no_face="mark")
UNIT = np.eye(8, dtype=np.float32)[0]


async def test_verify_does_not_depend_on_the_order_of_its_sides():
    async with Service() as service:
        service.models.serve(model("v1"))
        ab = await service.faces.verify(FACES[0], FACES[1], inf)
        ba = await service.faces.verify(FACES[1], FACES[0], inf)
        same = await service.faces.verify(FACES[0], FACES[0], inf)
    assert ab.similarity == ba.similarity
    assert np.array_equal(ab.face_a.embedding, ba.face_b.embedding)
    assert same.similarity == pytest.approx(1.0, abs=1e-6)
    assert same.same


async def test_verify_takes_both_sides_in_one_batch():
    async with Service() as service:
        serving = model("v1")
        service.models.serve(serving)
        await service.faces.verify(FACES[0], FACES[1], inf)
    assert serving.session.batches == [2]


async def test_a_stored_embedding_compares_as_its_image_does():
    async with Service() as service:
        service.models.serve(model("v1"))
        images = await service.faces.verify(FACES[0], FACES[1], inf)
        kept = stored(images.face_a.embedding)
        mixed = await service.faces.verify(kept, FACES[1], inf)
        both = await service.faces.verify(kept, stored(images.face_b.embedding), inf)
    assert mixed.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert both.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert (mixed.face_a, both.face_a, both.face_b) == (None, None, None)


async def test_a_stored_embedding_of_another_version_is_refused_unless_it_is_compatible():
    async with Service() as service:
        service.models.serve(model("v2", compatible=("v1",)))
        unit = np.eye(8, dtype=np.float32)[0]
        assert (await service.faces.verify(stored(unit, "v1"), FACES[0], inf)).same in (
            True,
            False,
        )
        with pytest.raises(PreconditionFailed, match=r"b.stored.model_version: embeddings of v0"):
            await service.faces.verify(FACES[0], stored(unit, "v0"), inf)


async def test_stored_embeddings_of_two_older_versions_are_not_compared():
    async with Service() as service:
        service.models.serve(model("v3", compatible=("v1", "v2")))
        unit = np.eye(8, dtype=np.float32)[0]
        with pytest.raises(PreconditionFailed, match="v1 and v2"):
            await service.faces.verify(stored(unit, "v1"), stored(unit, "v2"), inf)
        assert (await service.faces.verify(stored(unit, "v1"), stored(unit, "v1"), inf)).same


@pytest.mark.parametrize(
    ("vector", "why"),
    [
        (np.eye(7)[0], "28 bytes; 32 are needed"),
        (np.full(8, np.nan), "not finite"),
        (np.zeros(8), "length 0 instead of 1"),
        (np.ones(8), "length 2.828 instead of 1"),
    ],
)
async def test_a_stored_embedding_must_be_a_unit_vector_of_the_models_size(vector, why):
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=rf"^a.stored.embedding: .*{why}"):
            await service.faces.verify(stored(vector), FACES[0], inf)


async def test_a_stored_embedding_a_little_off_unit_length_is_scaled_back():
    async with Service() as service:
        service.models.serve(model("v1"))
        embedding = (await service.faces.embed(FACES[:1], inf)).faces[0].embedding
        verdict = await service.faces.verify(stored(embedding * 1.0005), FACES[0], inf)
    assert verdict.similarity == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("target", "threshold", "kept"),
    [
        (None, 0.5, None),
        (1e-1, 0.2, 1e-1),
        (5e-2, 0.4, 1e-2),
        (1e-3, 0.97, 1e-3),
        (1e-6, 0.97, 1e-3),
    ],
)
async def test_the_threshold_keeps_the_target_as_far_as_it_is_resolved(target, threshold, kept):
    async with Service() as service:
        service.models.serve(model("v1", operating_curve=CURVE), FmrTarget(target))
        verdict = await service.faces.verify(FACES[0], FACES[1], inf)
    assert verdict.threshold == pytest.approx(threshold, abs=1e-7)
    assert verdict.rule.kept_fmr == kept
    assert verdict.same == (verdict.similarity >= verdict.threshold)


async def test_a_version_without_a_curve_serves_at_its_own_threshold():
    async with Service() as service:
        service.models.serve(model("v1"), FmrTarget(1e-3))
        verdict = await service.faces.verify(FACES[0], FACES[1], inf)
    assert (verdict.threshold, verdict.rule.kept_fmr) == (0.5, None)
    assert (verdict.probability, verdict.false_match_rate) == (None, None)


async def test_a_call_keeps_the_operating_point_that_it_was_accepted_at():
    async with Service() as service:
        first = held("v1")
        changed = first.manifest.model_copy(update={"operating_curve": CURVE})
        first = replace(first, manifest=changed)
        service.models.serve(first, FmrTarget(1e-1))
        call = asyncio.create_task(service.faces.verify(FACES[0], FACES[1], inf))
        await until(lambda: first.session.batches)
        service.models.serve(first, FmrTarget(1e-3))
        first.session.go_on.set()
        assert (await call).rule.kept_fmr == 1e-1
        assert (await service.faces.verify(FACES[0], FACES[1], inf)).rule.kept_fmr == 1e-3


async def test_a_call_that_names_the_previous_version_gets_its_threshold_at_the_same_target():
    async with Service() as service:
        other = curve_at((1e-1, 0.3), (1e-2, 0.6))
        service.models.serve(model("v1", operating_curve=CURVE), FmrTarget(1e-1))
        service.models.serve(model("v2", operating_curve=other), FmrTarget(1e-2))
        kept = {}
        for version in ("v1", "v2"):
            verdict = await service.faces.verify(FACES[0], FACES[1], inf, version)
            kept[version] = (round(verdict.threshold, 6), verdict.rule.kept_fmr)
    assert kept == {"v1": (0.4, 1e-2), "v2": (0.6, 1e-2)}


async def test_the_probability_is_at_the_prior_and_the_rate_is_that_of_the_curve():
    slope = ProbabilityCurve(slope=8.0, intercept=-3.0)
    loaded = model("v1", operating_curve=CURVE, probability=slope)
    async with Service() as service:
        for prior in (0.5, 1e-3, 1e-12, 1 - 1e-12):
            service.models.serve(loaded, FmrTarget(prior=prior))
            verdict = await service.faces.verify(FACES[0], FACES[1], inf)
            odds = 8 * verdict.similarity - 3 + log(prior / (1 - prior))
            assert verdict.probability == pytest.approx(1 / (1 + np.exp(-odds)))
            assert verdict.false_match_rate == CURVE.false_match_rate(verdict.similarity)
        # The embedding of a picture without a face means nothing.
        marked = await service.faces.verify(BLACK, FACES[0], inf)
        assert (marked.probability, marked.false_match_rate) == (None, None)


async def test_a_side_of_low_quality_makes_the_verdict_unsure_only_for_a_caller_who_asks():
    async with Service() as service:
        service.models.serve(model("v1", magnitude_quantiles=(1.0, 1000.0)))
        plain = await service.faces.verify(FACES[0], FACES[1], inf)
        qualities = {"a": plain.face_a.quality, "b": plain.face_b.quality}
        assert 0 < min(qualities.values()) < max(qualities.values())
        low, high = sorted(qualities, key=qualities.__getitem__)
        for minimum, unsure in (
            (None, []),
            (0.0, []),
            (qualities[low], []),
            (np.nextafter(np.float32(qualities[low]), np.float32(1)), [low]),
            (qualities[high], [low]),
            (1.0, ["a", "b"]),
        ):
            verdict = await service.faces.verify(FACES[0], FACES[1], inf, minimum_quality=minimum)
            named = [side for side in "ab" if f"side {side}" in verdict.unsure_reason]
            assert named == unsure
            assert bool(verdict.unsure_reason) == bool(unsure)
            assert (verdict.similarity, verdict.same) == (plain.similarity, plain.same)
        assert f"quality of side {low} is {qualities[low] - 0.0005:.3f}" in verdict.unsure_reason
        assert "below the minimum_quality 1" in verdict.unsure_reason


async def test_a_side_without_a_face_is_unsure_for_a_caller_who_asks_for_quality():
    async with Service() as service:
        service.models.serve(model("v1"))
        verdict = await service.faces.verify(FACES[0], BLACK, inf, minimum_quality=0.0)
        assert verdict.unsure_reason == "side b shows no face"
        assert not (await service.faces.verify(FACES[0], BLACK, inf)).unsure_reason


async def test_a_stored_magnitude_has_the_quality_of_the_version_of_the_call():
    quantiles = (10.0, 20.0, 30.0)
    async with Service() as service:
        service.models.serve(model("v1", magnitude_quantiles=(1.0, 2.0)))
        service.models.serve(model("v2", compatible=("v1",), magnitude_quantiles=quantiles))
        for magnitude, unsure in ((14.9, True), (15.0, False), (1e30, False), (1e-30, True)):
            side = replace(stored(UNIT), magnitude=magnitude)
            verdict = await service.faces.verify(side, side, inf, minimum_quality=0.25)
            assert bool(verdict.unsure_reason) == unsure
            assert ("side a" in verdict.unsure_reason, "side b" in verdict.unsure_reason) == (
                unsure,
                unsure,
            )
        # In the quantiles of v1 it is the best.
        verdict = await service.faces.verify(
            replace(stored(UNIT), magnitude=14.9), stored(UNIT), inf, "v1"
        )
        assert verdict.same


@pytest.mark.parametrize("minimum", [nan, inf, -inf, -1e-6, 1.0001])
async def test_a_minimum_quality_outside_0_to_1_is_refused(minimum):
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=r"^minimum_quality: .* within 0..1"):
            await service.faces.verify(FACES[0], FACES[1], inf, minimum_quality=minimum)


@pytest.mark.parametrize("magnitude", [nan, inf, -inf, 0.0, -1.0])
@pytest.mark.parametrize("minimum", [None, 0.5])
async def test_a_magnitude_must_be_a_positive_number(magnitude, minimum):
    side = replace(stored(UNIT), magnitude=magnitude)
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=r"^b.stored.magnitude: is .* above 0"):
            await service.faces.verify(FACES[0], side, inf, minimum_quality=minimum)


async def test_a_stored_embedding_needs_its_magnitude_only_for_a_minimum_quality():
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=r"^a.stored.magnitude: is not set"):
            await service.faces.verify(stored(UNIT), FACES[0], inf, minimum_quality=0.0)
        assert (await service.faces.verify(stored(UNIT), FACES[0], inf)).unsure_reason == ""
