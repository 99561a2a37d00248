"""TrainerService over gRPC, against a trainer process."""

import io
import math
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from magface.v1 import trainer_pb2 as pb
from safetensors.torch import load_file

from cli.rendering.renderer import write_people
from services.trainer.data.reference_faces import load_reference
from shared.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.model.golden import check_golden
from shared.model.manifest import read_manifest
from shared.model.sessions.factory import open_session
from shared.registry.serving_pointer import read_pointer
from shared.registry.shadow_pointer import read_shadow
from shared.registry.version_store import VersionStore
from shared.rpc.channel import open_channel
from shared.rpc.errors import domain_errors
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.services.trainer.client import TrainerClient, upload_parts
from tests.support.processes import NOWHERE, ServiceProcess, service_environment
from tests.support.seaweedfs import SeaweedServer
from tests.support.texts import bad_texts, refusal

UPLOAD_LIMIT = 20 * 2**20
UNKNOWN_ID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def s3(seaweedfs: SeaweedServer) -> ObjectStoreSettings:
    return seaweedfs.settings().model_copy(update={"s3_bucket": "trainer-service"})


@pytest.fixture(scope="module")
def trainer(
    make_database: Callable[[], str],
    s3: ObjectStoreSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TrainerClient]:
    folder = tmp_path_factory.mktemp("trainer")
    write_people(folder / "reference", people=20, images=2, seed=0)
    environment = service_environment(
        make_database(),
        s3,
        work_dir=folder / "work",
        feedback_address=NOWHERE,
        upload_max_bytes=UPLOAD_LIMIT,
        reference_faces=folder / "reference",
    )
    with ServiceProcess("services.trainer", folder, environment) as process:
        process.start()
        yield TrainerClient(process)


@pytest.fixture(scope="module")
def default_version(trainer: TrainerClient) -> str:
    """The bundled network, imported and promoted at the trainer's first start."""
    (job,) = trainer.jobs()
    trainer.follow(job.job_id)
    return trainer.job(job.job_id).model_version


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_file(DEFAULT_CHECKPOINT)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_first_start_imports_and_promotes_the_bundled_network(
    trainer: TrainerClient, default_version: str, s3: ObjectStoreSettings, tmp_path: Path
):
    job = trainer.jobs()[-1]
    assert (job.kind, job.state) == (pb.JOB_KIND_IMPORT, pb.JOB_STATE_SUCCEEDED)
    assert (job.requested_by, job.progress) == ("system", 1)
    assert job.message.endswith("measured on 40 reference faces of 20 people of a folder")
    assert trainer.stages(job.job_id) == [
        *("queued", "starting", "loading_model", "calibrating"),
        *("exporting", "publishing", "promoting"),
    ]
    models = trainer.models()
    assert models.serving_generation == 1
    (model,) = models.models
    assert (model.model_version, model.serving, model.job_id) == (
        default_version,
        True,
        job.job_id,
    )
    assert default_version == f"iresnet18w16-{job.job_id[:8]}"
    assert (model.architecture, model.embedding_size) == ("iresnet18w16", 512)
    assert model.gate.passed
    assert [check.name for check in model.gate.checks] == [
        *("separation", "threshold_fmr", "threshold_fnmr", "self_check")
    ]
    objects = ObjectStore(s3)
    pointer = read_pointer(objects)
    assert (pointer.generation, pointer.model_version) == (1, default_version)
    folder = VersionStore(objects, tmp_path).fetch(default_version)
    manifest = VersionStore(objects, tmp_path).manifest(default_version)
    check_golden(open_session(folder), manifest)
    assert manifest.magnitude_quantiles == default_calibration().magnitude_quantiles
    assert manifest.threshold == default_calibration().threshold
    assert manifest.reference
    # The reference faces are stored with the version.
    assert len(np.unique(load_reference(objects, manifest.reference).persons)) == 20


@pytest.mark.usefixtures("default_version")
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"epochs": 0}, "options.epochs"),
        ({"epochs": 1001}, "options.epochs"),
        ({"learning_rate": -1.0}, "options.learning_rate"),
        ({"learning_rate": math.nan}, "options.learning_rate"),
        ({"batch_size": 1}, "options.batch_size"),
        ({"genuine_margin": 1.5}, "options.genuine_margin"),
        ({"impostor_margin": math.inf}, "options.impostor_margin"),
        ({"seed": -1}, "options.seed"),
        ({"recipe": 9}, "options.recipe"),
    ],
)
def test_a_bad_option_is_named(trainer: TrainerClient, options: dict, field: str):
    request = pb.StartTrainingRequest(options=pb.TrainingOptions(**options), requested_by="ada")
    before = len(trainer.jobs())
    with pytest.raises(InvalidInput) as error, domain_errors():
        trainer.stub.StartTraining(request, timeout=10)
    assert error.value.field == field
    assert len(trainer.jobs()) == before


@pytest.mark.usefixtures("default_version")
@pytest.mark.parametrize(
    ("call", "request_", "raises", "says"),
    [
        ("StartTraining", pb.StartTrainingRequest(), InvalidInput, "requested_by"),
        (
            "StartTraining",
            pb.StartTrainingRequest(
                options=pb.TrainingOptions(parent_version="nobody"), requested_by="ada"
            ),
            NotFound,
            "nobody",
        ),
        ("GetJob", pb.GetJobRequest(job_id="7"), InvalidInput, "job_id"),
        ("GetJob", pb.GetJobRequest(job_id=UNKNOWN_ID), NotFound, UNKNOWN_ID),
        ("CancelJob", pb.CancelJobRequest(job_id=UNKNOWN_ID), InvalidInput, "requested_by"),
        ("ListJobs", pb.ListJobsRequest(page_size=-1), InvalidInput, "page_size"),
        ("ListJobs", pb.ListJobsRequest(page_token="x"), InvalidInput, "page_token"),
        ("ListModels", pb.ListModelsRequest(page_size=1001), InvalidInput, "page_size"),
        (
            "PromoteModel",
            pb.PromoteModelRequest(model_version="nobody", requested_by="ada"),
            NotFound,
            "nobody",
        ),
        ("Rollback", pb.RollbackRequest(requested_by="ada"), PreconditionFailed, "before"),
        ("ListSuspects", pb.ListSuspectsRequest(job_id="x"), InvalidInput, "job_id"),
        ("ListSuspects", pb.ListSuspectsRequest(page_size=-1), InvalidInput, "page_size"),
        ("ListSuspects", pb.ListSuspectsRequest(), NotFound, "no training has succeeded"),
        ("EvaluateModel", pb.EvaluateModelRequest(), InvalidInput, "requested_by"),
        (
            "EvaluateModel",
            pb.EvaluateModelRequest(model_version="nobody", requested_by="ada"),
            NotFound,
            "nobody",
        ),
        (
            "EvaluateModel",
            pb.EvaluateModelRequest(against_version="nobody", requested_by="ada"),
            NotFound,
            "nobody",
        ),
        ("ListEvaluations", pb.ListEvaluationsRequest(page_token="x"), InvalidInput, "page_token"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(
    trainer: TrainerClient, *, call: str, request_, raises, says: str
):
    with pytest.raises(raises, match=says), domain_errors():
        getattr(trainer.stub, call)(request_, timeout=10)


@pytest.mark.usefixtures("default_version")
async def test_a_bad_text_in_any_field_is_refused_by_name_and_leaves_nothing(
    trainer: TrainerClient, s3: ObjectStoreSettings
):
    jobs, served = trainer.jobs(), trainer.models().serving_generation
    bad_ones = bad_texts(pb.DESCRIPTOR.services_by_name["TrainerService"])
    async with open_channel(trainer.address) as channel:
        found = {str(bad): await refusal(channel, bad) for bad in bad_ones}
    assert found == {str(bad): (grpc.StatusCode.INVALID_ARGUMENT, bad.field) for bad in bad_ones}
    assert trainer.jobs() == jobs
    assert trainer.models().serving_generation == served
    assert read_shadow(ObjectStore(s3)) is None


def test_a_watcher_of_an_unknown_job_is_told(trainer: TrainerClient):
    with pytest.raises(NotFound), domain_errors():
        trainer.follow(UNKNOWN_ID)


def test_a_version_is_not_compared_with_itself(trainer: TrainerClient, default_version: str):
    request = pb.EvaluateModelRequest(against_version=default_version, requested_by="ada")
    with pytest.raises(InvalidInput) as error, domain_errors():
        trainer.stub.EvaluateModel(request, timeout=10)
    assert error.value.field == "against_version"


def test_a_job_without_evaluation_has_no_report(trainer: TrainerClient):
    with pytest.raises(NotFound, match="no evaluation of job"), domain_errors():
        list(trainer.stub.GetEvaluationReport(pb.GetEvaluationReportRequest(job_id=UNKNOWN_ID)))


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([], "options"),
        ([pb.ImportModelRequest(chunk=b"x")], "options"),
        (list(upload_parts(b"")), "chunk"),
        (list(upload_parts(b"x", requested_by="")), "options.requested_by"),
        (list(upload_parts(b"x", threshold=2.0)), "options.threshold"),
        (list(upload_parts(b"x", threshold=math.nan)), "options.threshold"),
        (list(upload_parts(b"x", channel_order=7)), "options.channel_order"),
        (list(upload_parts(b"x", batch_norm_eps=0.0)), "options.batch_norm_eps"),
        (list(upload_parts(b"x", batch_norm_eps=1.0)), "options.batch_norm_eps"),
        (list(upload_parts(b"x", file_name="two\nlines")), "options.file_name"),
        ([*upload_parts(b"x"), pb.ImportModelRequest(options=pb.ImportOptions())], "chunk"),
        ([*upload_parts(b"x"), pb.ImportModelRequest(chunk=bytes(2**20 + 1))], "chunk"),
        (list(upload_parts(bytes(UPLOAD_LIMIT + 1))), "chunk"),
    ],
)
def test_a_bad_upload_is_refused_and_nothing_is_kept(
    trainer: TrainerClient, s3: ObjectStoreSettings, parts: list, field: str
):
    before = [stored.key for stored in ObjectStore(s3).list("uploads/")]
    jobs = len(trainer.jobs())
    with pytest.raises(InvalidInput) as error, domain_errors():
        trainer.upload(parts)
    assert error.value.field == field
    assert [stored.key for stored in ObjectStore(s3).list("uploads/")] == before
    assert len(trainer.jobs()) == jobs


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('boom')",))


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(2**20) + data[middle + 2**20 :]


def broken_file(what: str, state: dict[str, torch.Tensor]) -> bytes:
    make = {
        "partial": lambda: saved({k: v for k, v in state.items() if "4.1.bn3" not in k}),
        "misshapen": lambda: saved(state | {"layer1.0.conv1.weight": torch.zeros(3, 3)}),
        "head only": lambda: saved({"fc.weight": torch.zeros(100, 512)}),
        "pickle bomb": lambda: saved({"state_dict": Bomb()}),
        "bare pickle bomb": lambda: pickle.dumps(Bomb()),
        "zeros inside": lambda: zeroed(saved(state)),
        "cut short": lambda: saved(state)[:100_000],
        "no checkpoint": lambda: b"once upon a time",
    }
    return make[what]()


@pytest.mark.usefixtures("default_version")
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("partial", r"5 missing: layer4\.1\.bn3\.weight"),
        ("zeros inside", r"^checkpoint: from my trainer\.pth is damaged: the checksum"),
        ("pickle bomb", "files that run code are refused"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("misshapen", r"1 misshapen: layer1\.0\.conv1\.weight"),
                ("head only", r"no iResNet .*fc\.weight"),
                ("bare pickle bomb", "checkpoint"),
                ("cut short", "checkpoint"),
                ("no checkpoint", "checkpoint"),
            ]
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_fails_with_the_reason(
    trainer: TrainerClient, state: dict[str, torch.Tensor], what: str, says: str
):
    models = len(trainer.models().models)
    job = trainer.import_file(broken_file(what, state), file_name="from my trainer.pth")
    last = trainer.follow(job.job_id)[-1].job
    assert (last.state, last.model_version) == (pb.JOB_STATE_FAILED, "")
    assert re.search(says, last.message), last.message
    assert len(trainer.models().models) == models


@pytest.mark.slow
@pytest.mark.usefixtures("default_version")
def test_an_import_from_arcface_torch_says_so(
    trainer: TrainerClient, state, s3: ObjectStoreSettings, tmp_path: Path
):
    arcface = state | {"features.weight": torch.ones_like(state["features.weight"])}
    last = trainer.follow(trainer.import_file(saved(arcface)).job_id)[-1].job
    assert last.state == pb.JOB_STATE_SUCCEEDED, last.message
    assert re.search(r"warning: .*eps 1e-05.*arcface_torch.*2e-05", last.message)
    folder = VersionStore(ObjectStore(s3), tmp_path).fetch(last.model_version)
    assert read_manifest(folder).batch_norm_eps == 1e-5


def test_an_official_checkpoint_becomes_a_version_which_serves_when_promoted(
    trainer: TrainerClient, default_version: str, state, s3: ObjectStoreSettings, tmp_path: Path
):
    official = {f"features.module.{key}": value.float() for key, value in state.items()}
    official["fc.weight"] = torch.zeros(614, 512)
    data = saved({"epoch": 1, "arch": "iresnet18", "state_dict": official})
    job = trainer.import_file(data, channel_order=pb.CHANNEL_ORDER_RGB, threshold=0.25)
    events = trainer.follow(job.job_id)
    assert [event.job.state for event in events][:2] == [
        pb.JOB_STATE_QUEUED,
        pb.JOB_STATE_RUNNING,
    ]
    progress = [event.job.progress for event in events]
    assert progress == sorted(progress)
    last = events[-1].job
    assert last.state == pb.JOB_STATE_SUCCEEDED, last.message
    assert trainer.stages(job.job_id) == [
        *("queued", "starting", "loading_model", "calibrating", "exporting", "publishing")
    ]
    model = trainer.models().models[0]
    assert model.model_version == last.model_version
    assert (model.channel_order, model.threshold) == ("rgb", 0.25)
    assert not model.serving
    folder = VersionStore(ObjectStore(s3), tmp_path).fetch(model.model_version)
    assert load_file(folder / "weights.safetensors").keys() == state.keys()

    # In the wrong channel order it tells people apart badly.
    assert not model.gate.passed
    promote = pb.PromoteModelRequest(
        model_version=model.model_version,
        requested_by="ada",
        reason="try it",
        expected_generation=1,
    )
    with pytest.raises(PreconditionFailed, match=r"threshold_fmr .* against"), domain_errors():
        trainer.stub.PromoteModel(promote, timeout=10)
    promote.override_gate = True
    started = time.monotonic()
    assert trainer.stub.PromoteModel(promote, timeout=10).serving_generation == 2
    assert time.monotonic() - started < 2
    assert read_pointer(ObjectStore(s3)).model_version == model.model_version
    promote.model_version = default_version
    with pytest.raises(Conflict), domain_errors():
        trainer.stub.PromoteModel(promote, timeout=10)
    back = trainer.stub.Rollback(pb.RollbackRequest(requested_by="ada"), timeout=10)
    assert (back.model_version, back.serving_generation) == (default_version, 3)
    history = trainer.stub.ListPromotions(pb.ListPromotionsRequest(page_size=2), timeout=10)
    shown = [(one.serving_generation, one.reason, one.restores) for one in history.promotions]
    assert shown == [(3, "", 1), (2, "try it", 0)]
    assert history.promotions[1].gate_overridden
    assert history.next_page_token == "2"
    assert read_pointer(ObjectStore(s3)).model_version == default_version


@pytest.mark.usefixtures("default_version")
def test_a_training_without_feedback_service_waits_and_can_be_cancelled(trainer: TrainerClient):
    request = pb.StartTrainingRequest(requested_by="ada")
    job = trainer.stub.StartTraining(request, timeout=10).job
    assert (job.kind, job.state) == (pb.JOB_KIND_TRAIN, pb.JOB_STATE_QUEUED)
    watching = trainer.stub.WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=60)
    for event in watching:
        if "trying again" in event.job.message:
            break
    cancel = pb.CancelJobRequest(job_id=job.job_id, requested_by="ada")
    trainer.stub.CancelJob(cancel, timeout=10)
    assert list(watching)[-1].job.state == pb.JOB_STATE_CANCELLED
    with pytest.raises(PreconditionFailed), domain_errors():
        trainer.stub.CancelJob(cancel, timeout=10)


def test_the_server_needs_neither_torch_nor_opencv_nor_onnxruntime():
    code = (
        "import sys, services.trainer.__main__;"
        "sys.exit(', '.join({'torch', 'cv2', 'onnxruntime', 'sklearn'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("default_version")
def test_lists_come_in_pages(trainer: TrainerClient):
    seen, token = [], ""
    while True:
        request = pb.ListJobsRequest(page_size=2, page_token=token)
        page = trainer.stub.ListJobs(request, timeout=10)
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == [job.job_id for job in trainer.jobs()]
