"""Tests that tables do not break ids, versions and hashes at 80 columns."""

import io
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from magface.v1 import embedder_pb2, feedback_pb2, trainer_pb2
from rich.console import Console, Group, RenderableType
from rich.text import Text

from cli.commands.dataset import splits_table
from cli.commands.faces import embeddings_table
from cli.commands.feedback.erasure import audit_table
from cli.commands.feedback.labels import pairs_table
from cli.commands.feedback.pool import annotators_table, leases_table
from cli.commands.feedback.suspects import suspect_tables
from cli.commands.job_progress import gate_table, job_facts
from cli.commands.models.evaluations import evaluations_table
from cli.commands.models.rollout import rollout_table
from cli.commands.models.versions import models_table
from cli.commands.training import jobs_table
from cli.output import facts, table, to_plain

_JOB = str(UUID("3f2b9c1e-7a54-4c1d-9e0f-0123456789ab"))
_VERSION = "iresnet18w16-1a2b3c4d-quantized-int8"
_PARENT = "iresnet18w16-5e6f7a8b"
_HASHES = ("a1b2c3d4" * 8, "0f9e8d7c" * 8)
_INSTANCE = "embedder-7f9c6d5b4-x2x8q"
_AT = "2026-11-28T13:40:10.123Z"
_REASON = (
    f"accuracy of {_VERSION} on the reference faces fell by 0.0134 against {_PARENT}, "
    "which is more than the 0.0050 that the gate allows"
)

_GATE = {
    "passed": False,
    "checks": [
        {"name": "reference_accuracy", "passed": False, "value": 0.9123, "limit": 0.9207}
        | {"detail": _REASON},
        {"name": "test_auc", "passed": True, "value": 0.98, "limit": 0.97, "detail": "fine"},
    ],
}


def _job() -> trainer_pb2.Job:
    job = trainer_pb2.Job(
        job_id=_JOB,
        kind=trainer_pb2.JOB_KIND_TRAIN,
        state=trainer_pb2.JOB_STATE_SUCCEEDED,
        progress=1,
        message=f"the gate refused it: {_REASON}",
        model_version=_VERSION,
    )
    job.created_at.FromJsonString(_AT)
    for check in _GATE["checks"]:
        job.gate.checks.add(**check)
    return job


def _models() -> RenderableType:
    model = trainer_pb2.ModelVersion(
        model_version=_VERSION,
        architecture="iresnet18w16",
        parent_version=_PARENT,
        threshold=0.287,
        serving=True,
        gate=_job().gate,
    )
    model.created_at.FromJsonString(_AT)
    return models_table([to_plain(model)])


def _evaluations() -> RenderableType:
    evaluation = trainer_pb2.Evaluation(
        job_id=_JOB,
        model_version=_VERSION,
        figures={"genuine_pairs": 500, "impostor_pairs": 500},
        against={"model_version": _PARENT},
    )
    evaluation.at.FromJsonString(_AT)
    evaluation.figures.values.update({"accuracy": 0.931, "tar_at_far.0.01": 0.87})
    return evaluations_table([to_plain(evaluation)])


def _rollout() -> RenderableType:
    replica = {"instance": _INSTANCE, "model_version": _PARENT, "swap_error": _REASON}
    response = trainer_pb2.GetRolloutResponse(
        model_version=_VERSION,
        serving_generation=7,
        replicas=[replica],
        shadow={"model_version": _VERSION, "pairs": 9, "agreement": 0.9, "error": _REASON},
    )
    return rollout_table(to_plain(response))


def _pairs() -> RenderableType:
    pair = feedback_pb2.Pair(
        pair_id=1_234_567,
        sha256_a=_HASHES[0],
        sha256_b=_HASHES[1],
        consensus=feedback_pb2.LABEL_DIFFERENT,
        confidence=0.75,
        votes_different=3,
    )
    pair.last_labelled.FromJsonString(_AT)
    return pairs_table([to_plain(pair)])


def _leases() -> RenderableType:
    pair = {"sha256_a": _HASHES[0], "sha256_b": _HASHES[1], "expires_at": _AT}
    return leases_table({"pairs": [pair], "note": f"chosen at random: {_REASON}"})


def _suspects() -> RenderableType:
    suspect = {"sha256_a": _HASHES[0], "sha256_b": _HASHES[1], "same": True, "reason": "unlikely"}
    people = [f"annotator-{number}" for number in range(9)]
    response = trainer_pb2.ListSuspectsResponse(job_id=_JOB, pairs=10, annotators=[{"votes": 3}])
    return suspect_tables(
        to_plain(response)
        | {"suspects": [suspect | {"wrong_probability": 0.97, "annotators": people}]}
    )


def _audit() -> RenderableType:
    entry = {"at": _AT, "actor": "data-protection-officer", "action": "erase_subject"}
    detail = {"images": 120_000, "labels": 48_000}
    return audit_table([entry | {"request_id": _JOB, "detail": detail}])


_TABLES: dict[str, tuple[Callable[[], RenderableType], tuple[str, ...]]] = {
    "models list": (_models, (_VERSION, _PARENT, "iresnet18w16", "refused", "serves")),
    "jobs list": (lambda: jobs_table([to_plain(_job())]), (_JOB, _VERSION, _PARENT, "succeeded")),
    "jobs show": (lambda: job_facts(_job()), (_JOB, _VERSION, _PARENT)),
    "gate": (lambda: gate_table(_GATE), (_VERSION, _PARENT, "reference_accuracy")),
    "models evaluations": (_evaluations, (_JOB, _VERSION, _PARENT, "93.10 %")),
    "models rollout": (_rollout, (_VERSION, _PARENT, _INSTANCE)),
    "feedback list": (_pairs, ("1234567", *_HASHES, "different")),
    "feedback next": (_leases, (*_HASHES, _VERSION)),
    "feedback suspects": (_suspects, (_JOB, *_HASHES, "annotator-8")),
    "feedback audit": (_audit, (_JOB, "data-protection-officer")),
    "feedback annotators": (
        lambda: annotators_table(
            {"annotators": [{"annotator": _JOB, "gold_answers": 12, "gold_right": 9}]}
        ),
        (_JOB, "75%"),
    ),
    "facts": (
        lambda: facts({"sha256_a": _HASHES[0], "a name that is long": f"{_HASHES[1]} {_JOB}"}),
        (*_HASHES, _JOB),
    ),
    "embed": (
        lambda: embeddings_table(
            [Path("/faces/anna.png")], [embedder_pb2.FaceEmbedding(magnitude=31.2)], _VERSION
        ),
        ("/faces/anna.png", _VERSION),
    ),
    "splits": (
        lambda: splits_table([{"split": "train", "file": f"/sets/{_JOB}.json", "pairs": 1000}]),
        (f"/sets/{_JOB}.json",),
    ),
}


def _shown(readable: RenderableType, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(readable, crop=False)
    return output.getvalue()


@pytest.mark.parametrize("name", _TABLES)
def test_ids_versions_and_hashes_are_whole_at_80_columns(name: str) -> None:
    make, whole = _TABLES[name]
    shown = _shown(make(), 80)
    for value in whole:
        assert value in shown, f"{value} is broken:\n{shown}"
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize("name", _TABLES)
def test_an_id_is_whole_even_where_it_does_not_fit(name: str) -> None:
    make, whole = _TABLES[name]
    shown = _shown(make(), 30)
    assert [value for value in whole if value not in shown] == []


def test_what_fits_is_one_line_a_row() -> None:
    shown = _shown(jobs_table([to_plain(_job())] * 3), 10_000)
    assert len(shown.splitlines()) == 1 + 3


def test_free_text_is_wrapped_beside_the_row_where_there_is_room() -> None:
    shown = _shown(table("check", "detail", rows=[["auc", "word " * 20]], text=["detail"]), 60)
    first, *others = shown.splitlines()[1:]
    assert first.startswith("auc    word word")
    assert others
    assert all(line.startswith("       word") for line in others)


def test_empty_columns_below_a_row_are_left_out() -> None:
    rows = [["a" * 20, "b" * 20], ["c" * 20, None]]
    shown = _shown(table("id", "parent", rows=rows), 30)
    assert shown.splitlines() == ["id", "a" * 20, f"  parent {'b' * 20}", "c" * 20]


def test_groups_of_tables_are_printed_one_after_the_other() -> None:
    shown = _shown(Group(facts({"a": 1}), table("b", rows=[[Text("2")]])), 80)
    assert shown == "a  1\nb\n2\n"


@pytest.mark.parametrize(
    ("name", "target", "hinted"),
    [
        ("heldout_errors", None, True),
        ("heldout_errors", 0.01, False),
        ("threshold_fmr", None, False),
    ],
)
def test_a_refusal_without_a_target_names_the_command_that_sets_one(
    name: str, target: float | None, hinted: bool
) -> None:
    check = {"name": name, "passed": False, "value": 1.0, "limit": 0.5, "detail": "more errors"}
    shown = Console(width=200, file=io.StringIO())
    shown.print(gate_table({"passed": False, "checks": [check], "target_fmr": target}))
    assert isinstance(shown.file, io.StringIO)
    assert ("magface models operating-point" in shown.file.getvalue()) == hinted
