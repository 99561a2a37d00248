"""Tests of ``magface feedback suspects``."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from deploy.local.endpoints import Endpoints
from deploy.local.stack import Stack
from services.trainer.data.label_report import (
    AnnotatorReliability,
    LabelReport,
    Suspect,
    Suspicion,
    store_report,
)
from shared.storage.objects import ObjectStore
from tests.cli.conftest import Ask, Magface

REPORT = LabelReport(
    pairs=1000,
    wrong_share=0.183,
    treated=True,
    suspects=(
        Suspect("a" * 64, "b" * 64, True, 0.97, Suspicion.UNLIKELY, ("eve", "bob")),
        Suspect("c" * 64, "d" * 64, False, 0.41, Suspicion.CONTRADICTION, ("ada",)),
    ),
    annotators=(
        AnnotatorReliability("eve", 40, 0.2, 0.3),
        AnnotatorReliability("ada", 960, 0.98, 0.99),
    ),
)


@pytest.fixture
def training(endpoints: Endpoints, objects: ObjectStore) -> Iterator[UUID]:
    """An ended training job with a label report in the stack's stores."""
    job_id = uuid4()
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO trainer.jobs (job_id, kind, spec, requested_by, state, ended_at)"
            " VALUES (%s, 'train', '{}', 'ada', 'succeeded', now())",
            (job_id,),
        )
        store_report(objects, job_id, REPORT)
        yield job_id
        connection.execute("DELETE FROM trainer.jobs WHERE job_id = %s", (job_id,))


def test_suspects_are_given_with_why_and_by_whom(ask: Ask, training: UUID) -> None:
    answer = ask("feedback", "suspects")
    assert answer == ask("feedback", "suspects", "--job", training)
    assert (answer["job_id"], answer["pairs"], answer["treated"]) == (str(training), 1000, True)
    assert answer["suspects"][0] == {
        "sha256_a": "a" * 64,
        "sha256_b": "b" * 64,
        "same": True,
        "wrong_probability": 0.97,
        "reason": "unlikely",
        "annotators": ["eve", "bob"],
    }
    assert answer["suspects"][1]["reason"] == "contradiction"
    assert [one["annotator"] for one in answer["annotators"]] == ["eve", "ada"]
    assert ask("feedback", "suspects", "--limit", 1)["suspects"] == answer["suspects"][:1]


def test_the_tables_name_labels_and_annotators(
    magface: Magface, stack: Stack, training: UUID
) -> None:
    shown = magface("feedback", "suspects", "--job", training, "--dir", stack.folder).stdout
    for part in ("a" * 64, "b" * 64, "eve, bob", "18.3%", "contradiction", "20%", "960"):
        assert part in shown


def test_a_training_that_is_not_there_is_said(magface: Magface, stack: Stack) -> None:
    result = magface("feedback", "suspects", "--job", uuid4(), "--dir", stack.folder)
    assert result.exit_code == 1
    assert "is no training that has succeeded" in result.stderr
