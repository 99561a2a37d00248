"""Training as a job: from labels over gRPC to a version with a verdict, also after a kill."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from magface.v1 import feedback_pb2_grpc
from magface.v1 import trainer_pb2 as pb

from shared.model.manifest import WEIGHTS_FILE, Manifest
from shared.registry.version_store import VersionStore
from shared.rpc.channel import open_sync_channel
from shared.storage.objects import ObjectStore
from tests.services.trainer.client import TrainerClient
from tests.services.trainer.people import submit_people
from tests.support.processes import ServiceProcess, service_environment
from tests.support.seaweedfs import SeaweedServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 3


@dataclass
class World:
    """A trainer, and a feedback service with labels on rendered people."""

    process: ServiceProcess
    trainer: TrainerClient
    store: VersionStore

    def start(self, **options: object) -> pb.Job:
        request = pb.StartTrainingRequest(
            options=pb.TrainingOptions(epochs=EPOCHS, seed=5, **options),
            requested_by="ada",
            no_promotion=True,
        )
        return self.trainer.stub.StartTraining(request, timeout=10).job

    def manifest(self, job_id: str) -> Manifest:
        return self.store.manifest(self.trainer.job(job_id).model_version)


@pytest.fixture(scope="module")
def world(
    make_database: Callable[[], str],
    seaweedfs: SeaweedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    s3 = seaweedfs.settings().model_copy(update={"s3_bucket": "trainer-training"})
    database, folder = make_database(), tmp_path_factory.mktemp("training")
    stores = service_environment(database, s3)
    with ServiceProcess("services.feedback", folder / "feedback", stores) as feedback:
        with open_sync_channel(feedback.start()) as channel:
            submit_people(feedback_pb2_grpc.FeedbackServiceStub(channel), people=60, images=3)
        environment = service_environment(
            database, s3, work_dir=folder / "work", feedback_address=feedback.address
        )
        with ServiceProcess("services.trainer", folder / "trainer", environment) as process:
            process.start()
            trainer = TrainerClient(process)
            trainer.follow(trainer.jobs()[0].job_id)
            yield World(process, trainer, VersionStore(ObjectStore(s3), folder / "versions"))


@pytest.fixture(scope="module")
def undisturbed(world: World) -> pb.Job:
    job = world.start()
    return world.trainer.follow(job.job_id, timeout_s=280)[-1].job


def test_a_training_is_judged_and_told_step_by_step(world: World, undisturbed: pb.Job):
    assert undisturbed.state == pb.JOB_STATE_SUCCEEDED, undisturbed.message
    assert undisturbed.HasField("gate")
    assert len(undisturbed.gate.checks) >= 3
    parent = world.trainer.models().models[-1]
    (model,) = [m for m in world.trainer.models().models if m.job_id == undisturbed.job_id]
    assert model.model_version == undisturbed.model_version
    assert (model.parent_version, model.gate) == (parent.model_version, undisturbed.gate)
    assert (model.serving, parent.serving) == (False, True)
    assert world.manifest(undisturbed.job_id).data_snapshot
    events = world.trainer.follow(undisturbed.job_id)
    progress = [event.job.progress for event in events]
    assert progress == sorted(progress)
    assert world.trainer.stages(undisturbed.job_id) == [
        *("queued", "starting", "pulling_feedback", "pulling_images", "loading_model"),
        *("decoding_images", "embedding", "checking_labels", "training", "evaluating"),
        *("exporting", "publishing"),
    ]
    assert {event.figures["epoch"] for event in events if "epoch" in event.figures} == {1, 2, 3}


def test_a_trained_version_is_measured_beside_its_parent(world: World, undisturbed: pb.Job):
    parent = world.manifest(undisturbed.job_id).parent_version
    request = pb.EvaluateModelRequest(
        model_version=undisturbed.model_version, against_version=parent, requested_by="ada"
    )
    job = world.trainer.stub.EvaluateModel(request, timeout=10).job
    last = world.trainer.follow(job.job_id)[-1].job
    assert last.state == pb.JOB_STATE_SUCCEEDED, last.message
    assert world.trainer.stages(job.job_id) == [
        *("queued", "starting", "loading_model", "pulling_feedback", "pulling_images"),
        *("decoding_images", "embedding", "evaluating", "reporting", "publishing"),
    ]
    (found,) = world.trainer.stub.ListEvaluations(
        pb.ListEvaluationsRequest(), timeout=10
    ).evaluations
    assert (found.model_version, found.against.model_version) == (undisturbed.model_version, parent)
    # It was trained on all of this feedback.
    assert found.pairs_trained_on == found.figures.genuine_pairs + found.figures.impostor_pairs > 0
    separation, before = (of.values["auc"] for of in (found.figures, found.against.figures))
    assert separation > before


def test_a_finished_training_says_what_it_thinks_of_its_labels(world: World, undisturbed: pb.Job):
    answer = world.trainer.stub.ListSuspects(pb.ListSuspectsRequest(), timeout=10)
    assert answer.job_id == undisturbed.job_id
    assert (answer.pairs, answer.treated) == (240, False)
    assert answer.wrong_share < 0.02
    (ada,) = answer.annotators
    assert (ada.annotator, ada.votes) == ("ada", 240)
    assert min(ada.genuine_right, ada.impostor_right) > 0.9


def test_a_killed_trainers_job_resumes_and_gives_the_identical_weights(
    world: World, undisturbed: pb.Job
):
    job = world.start()

    def has_saved_an_epoch() -> bool:
        return world.trainer.job(job.job_id).message == "training, epoch 2"

    wait_until(has_saved_an_epoch, 200)
    world.process.kill()
    world.process.start()
    events = world.trainer.follow(job.job_id, timeout_s=280)
    last = events[-1].job
    assert last.state == pb.JOB_STATE_SUCCEEDED, last.message
    messages = [event.job.message for event in events]
    assert "training, epoch 1" not in messages[messages.index("started again") :]
    stages = world.trainer.stages(job.job_id)
    resumed = len(stages) - stages[::-1].index("starting") - 1
    assert stages[resumed - 1] == "training"
    assert stages[resumed:] == world.trainer.stages(undisturbed.job_id)[1:]
    resumed_manifest, manifest = world.manifest(job.job_id), world.manifest(undisturbed.job_id)
    assert resumed_manifest.files[WEIGHTS_FILE] == manifest.files[WEIGHTS_FILE]


def test_cancelling_a_training_takes_no_longer_than_a_step(world: World):
    job = world.start()
    wait_until(lambda: world.trainer.job(job.job_id).stage == pb.JOB_STAGE_TRAINING, 120)
    world.trainer.stub.CancelJob(
        pb.CancelJobRequest(job_id=job.job_id, requested_by="bob"), timeout=10
    )
    wait_until(lambda: world.trainer.job(job.job_id).state == pb.JOB_STATE_CANCELLED, 2)
    cancelled = world.trainer.job(job.job_id)
    assert (cancelled.message, cancelled.stage) == ("cancelled by bob", pb.JOB_STAGE_TRAINING)
