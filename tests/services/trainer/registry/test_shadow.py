"""Publication of the version that the embedders evaluate in the shadow."""

from pathlib import Path

import pytest

from services.trainer.api.service import Trainer
from services.trainer.jobs.queue import JobQueue
from services.trainer.jobs.uploads import UploadStore
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.registry.operating_points import OperatingPoints
from services.trainer.registry.replicas import ReplicaWatch
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import SuspectLabels
from services.trainer.registry.versions import VersionRegistry
from shared.errors import NotFound, PreconditionFailed
from shared.registry.shadow_pointer import ShadowPointer, read_shadow
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import PASSED, REFUSED, add_sample, files_are_there


@pytest.fixture
async def trainer(pool: Pool, object_store: ObjectStore, tmp_path: Path) -> Trainer:
    """A trainer with three versions, of which v1 serves."""
    for name, gate in (("v1", PASSED), ("v2", PASSED), ("v3", REFUSED)):
        await add_sample(pool, name, gate)
    trainer = Trainer(
        JobQueue(pool),
        VersionRegistry(pool, files_are_there),
        EvaluationStore(pool, object_store),
        SuspectLabels(pool, object_store),
        operating_points=OperatingPoints(pool),
        uploads=UploadStore(object_store, tmp_path, 2**20),
        pointer=ServingPointerPublisher(pool, object_store),
        replicas=ReplicaWatch(object_store),
        shadow=ShadowPublisher(pool, object_store),
    )
    await trainer.promote(
        "v1", requested_by="ada", reason="first", override_gate=False, expected_generation=None
    )
    return trainer


async def test_one_version_is_tried_at_a_time_and_none_once_it_is_stopped(
    trainer: Trainer, object_store: ObjectStore
):
    # In the shadow, a version that its gate refused does no harm.
    for name in ("v2", "v3"):
        await trainer.shadow(name, requested_by="ada")
        assert read_shadow(object_store) == ShadowPointer(model_version=name)
    for _ in range(2):
        await trainer.shadow("", requested_by="ada")
        assert read_shadow(object_store) is None
    assert (await trainer.versions.serving()).generation == 1


@pytest.mark.parametrize(
    ("version", "error", "says"),
    [
        ("v9", NotFound, "no model version v9"),
        ("v1", PreconditionFailed, "v1 serves; name a version to try beside it"),
    ],
)
async def test_what_cannot_be_tried_leaves_the_candidate_as_it_was(
    trainer: Trainer, object_store: ObjectStore, *, version, error, says
):
    await trainer.shadow("v3", requested_by="ada")
    with pytest.raises(error, match=says):
        await trainer.shadow(version, requested_by="ada")
    assert read_shadow(object_store) == ShadowPointer(model_version="v3")
