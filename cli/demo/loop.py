"""The loop of the demo: measure, label, train, swap under traffic, measure again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magface.v1 import embedder_pb2, trainer_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub
from magface.v1.trainer_pb2_grpc import TrainerServiceStub

from cli import clients
from cli.commands.job_progress import wait_for_job
from cli.commands.models.rollout import wait_for_rollout
from cli.commands.models.versions import upload_checkpoint
from cli.demo.measure import measure, score_by_service
from cli.demo.people import DemoPeople
from cli.demo.stages import correction_times
from cli.demo.traffic import VerifyTraffic, count_mixed
from cli.images import AlignmentChoice
from cli.output import to_plain
from cli.transfer.import_labels import import_pair_set
from shared.datasets.pairs import PairSet, renumber
from shared.errors import MagFaceError, Unavailable

_SWAP_TIMEOUT_S = 30.0
_PAIRS_IN_TRAFFIC = 40
# Stages between the training and the swap; the traffic speeds up in them.
_STAGES_BEFORE_SWAP = (
    trainer_pb2.JOB_STAGE_EVALUATING,
    trainer_pb2.JOB_STAGE_EXPORTING,
    trainer_pb2.JOB_STAGE_PUBLISHING,
)
_BY = "demo"


def serve_checkpoint(stack: Path, checkpoint: Path) -> None:
    """Import a checkpoint into a running stack and promote it."""
    with clients.trainer(stack) as trainer, clients.embedder(stack) as embedder:
        options = trainer_pb2.ImportOptions(requested_by=_BY, idempotency_key=clients.new_key())
        job = wait_for_job(trainer, upload_checkpoint(trainer, checkpoint, options))
        request = trainer_pb2.PromoteModelRequest(
            model_version=job.model_version,
            requested_by=_BY,
            reason="checkpoint of the demo",
            idempotency_key=clients.new_key(),
        )
        trainer.PromoteModel(request, timeout=clients.CALL_TIMEOUT_S)
        _wait_until_served(embedder, job.model_version)


def set_operating_point(stack: Path, target_fmr: float) -> None:
    """Set the target false-match rate, and wait until it is served."""
    request = trainer_pb2.SetOperatingPointRequest(
        target_fmr=target_fmr,
        requested_by=_BY,
        reason="target of the demo",
        idempotency_key=clients.new_key(),
    )
    with clients.trainer(stack) as trainer:
        answer = trainer.SetOperatingPoint(request, timeout=clients.CALL_TIMEOUT_S)
        wait_for_rollout(trainer, answer.serving_generation)


def run_loop(stack: Path, people: DemoPeople, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the loop on a running stack.

    Args:
        stack: Folder of the stack, for which an operating point is set.
        people: Pairs to label, to calibrate on and to test on.
        report: Gets a line of text about each step.

    Returns:
        The summary, see the README.

    Raises:
        MagFaceError: The training failed or labels were refused.
    """
    started = time.perf_counter()
    sample = _first_pairs(people.test, _PAIRS_IN_TRAFFIC)
    with clients.embedder(stack) as embedder, clients.trainer(stack) as trainer:
        before = measure(embedder, people.validation, people.test)
        report(
            f"{before.model_version} serves; its accuracy on {len(people.test)} pairs of unseen "
            f"people is {before.figures()['accuracy']:.1%}, its FNMR at the operating point "
            f"{before.served['served_fnmr']:.1%}"
        )
        _submit(stack, people.feedback)
        report(
            f"stored labels of {len(people.feedback)} pairs of other people; fine-tuning on them"
        )
        references = dict([score_by_service(embedder, sample)])
        with VerifyTraffic(embedder, sample) as traffic:
            requested = time.perf_counter()
            job = _train(trainer, traffic)
            if job.gate.passed:
                _wait_until_served(embedder, job.model_version)
            seconds = time.perf_counter() - requested
            report(_verdict(job))
            references |= dict([score_by_service(embedder, sample)])
        after = measure(embedder, people.validation, people.test)
    return {
        "before": before.figures(),
        "after": after.figures(),
        "at_0_4": {
            "before": before.accuracy_at_fixed_threshold(),
            "after": after.accuracy_at_fixed_threshold(),
        },
        "feedback_pairs": len(people.feedback),
        "test_pairs": len(people.test),
        "swap": {
            "requests": len(traffic.answers) + len(traffic.failures),
            "failed": len(traffic.failures),
            "mixed_versions": count_mixed(traffic.answers, references),
        },
        "correction": correction_times(job, seconds, swapped=job.gate.passed),
        "seconds": time.perf_counter() - started,
        "model_version": {"before": before.model_version, "after": after.model_version},
        "gate": to_plain(job)["gate"],
        "verdict": _verdict(job),
    }


def _submit(stack: Path, pairs: PairSet) -> None:
    with clients.feedback(stack) as stub:
        done = import_pair_set(stub, pairs, _BY, AlignmentChoice.AUTO)
    if done.rejected:
        raise MagFaceError(f"{len(done.rejected)} labels were refused: {done.rejected[0]['why']}")


def _train(stub: TrainerServiceStub, traffic: VerifyTraffic) -> trainer_pb2.Job:
    def on_event(event: trainer_pb2.WatchJobResponse) -> None:
        if event.job.stage in _STAGES_BEFORE_SWAP:
            traffic.speed_up()

    request = trainer_pb2.StartTrainingRequest(requested_by=_BY, idempotency_key=clients.new_key())
    job = stub.StartTraining(request, timeout=clients.CALL_TIMEOUT_S).job
    return wait_for_job(stub, job, on_event)


def _wait_until_served(stub: EmbedderServiceStub, model_version: str) -> None:
    deadline = time.monotonic() + _SWAP_TIMEOUT_S
    while True:
        request = embedder_pb2.GetModelRequest()
        model = stub.GetModel(request, timeout=clients.CALL_TIMEOUT_S)
        if model.model_version == model_version:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the embedder still serves {model.model_version}, not {model_version}: "
                f"{model.swap_error or 'it has not read the promotion yet'}"
            )
        time.sleep(0.1)


def _verdict(job: trainer_pb2.Job) -> str:
    if job.gate.passed:
        return f"{job.model_version} passed the gate and serves"
    if job.gate.outcome == trainer_pb2.GATE_OUTCOME_NOT_ENOUGH_EVIDENCE:
        return f"there is not enough evidence for {job.model_version}: {job.gate.missing}"
    refused = [f"{check.name}: {check.detail}" for check in job.gate.checks if not check.passed]
    return f"the gate refused {job.model_version}: {job.gate.missing or '; '.join(refused)}"


def _first_pairs(pair_set: PairSet, count: int) -> PairSet:
    """The first pairs of a set, with only their images."""
    images, pairs = renumber(pair_set.pairs[:count])
    return PairSet(
        images=tuple(pair_set.images[image] for image in images),
        pairs=pairs,
        labels=pair_set.labels[:count],
    )
