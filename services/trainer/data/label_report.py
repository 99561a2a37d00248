"""What a training found out about its labels, and where that is kept."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from pydantic import TypeAdapter

from services.trainer.data.labels import LabelledPair
from shared.registry.label_reports import LABEL_REPORTS
from shared.storage.objects import ObjectStore


class Suspicion(StrEnum):
    """Why a label is suspected."""

    # Its votes and the similarity of its images make it more likely wrong than right.
    UNLIKELY = "unlikely"
    # SAME labels connect what a DIFFERENT label parts, and no other is trusted less.
    CONTRADICTION = "contradiction"


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Attributes:
        same: What it says.
        wrong: Probability that it is wrong, 0..1.
        annotators: Who said so.
    """

    sha256_a: str
    sha256_b: str
    same: bool
    wrong: float
    why: Suspicion
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class Reliability:
    """How often an annotator is right.

    Attributes:
        votes: Of theirs, not counting the unsure ones.
        genuine_right: Share of the genuine pairs that they call SAME, 0..1; of few votes nearer
            to what all annotators reach together.
        impostor_right: Share of the impostor pairs that they call DIFFERENT, 0..1.
    """

    annotator: str
    votes: int
    genuine_right: float
    impostor_right: float


@dataclass(frozen=True)
class LabelReport:
    """What a training thinks of its labels.

    Attributes:
        pairs: How many it was given.
        wrong_share: Share of them that it expects to be wrong, 0..1.
        treated: Whether it weighted the labels by their probability to be right and left
            the unlikely ones out; it does not where next to none seem wrong.
        suspects: The surest first.
        annotators: The least reliable first.
    """

    pairs: int
    wrong_share: float
    treated: bool
    suspects: tuple[Suspect, ...]
    annotators: tuple[Reliability, ...]


_REPORT = TypeAdapter(LabelReport)


def suspect(pair: LabelledPair, wrong: float, why: Suspicion) -> Suspect:
    """Suspect a pair's label."""
    annotators = tuple(vote.annotator for vote in pair.votes if vote.same == pair.same)
    return Suspect(pair.sha256_a, pair.sha256_b, pair.same, wrong, why, annotators)


def surest_first(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Sort by the probability to be wrong, and the same way each time."""
    return tuple(sorted(suspects, key=lambda one: (-one.wrong, one.sha256_a, one.sha256_b)))


def keep_report(objects: ObjectStore, job_id: UUID, report: LabelReport) -> None:
    """Store the report of a job.

    Raises:
        Unavailable: If the object store cannot be reached.
    """
    objects.put(_key(job_id), _REPORT.dump_json(report))


def keep_report_without_erased(
    objects: ObjectStore,
    job_id: UUID,
    report: LabelReport,
    still_stored: Callable[[], Collection[str]],
) -> None:
    """Store the report of a job, without the images that were erased while it ran.

    An erasure deletes an image's labels before it looks for reports that name it. So one that
    came before the report was there is seen when the images are looked at afterwards, and a
    later one finds the report.

    Args:
        objects: Where reports are.
        job_id: The job's.
        report: What it found.
        still_stored: Gives the hashes of the snapshot's images that are stored now.

    Raises:
        Unavailable: If a store cannot be reached.
    """
    left = _without_erased(report, still_stored)
    while True:
        keep_report(objects, job_id, left)
        before, left = left, _without_erased(left, still_stored)
        if left == before:
            return


def _without_erased(
    report: LabelReport, still_stored: Callable[[], Collection[str]]
) -> LabelReport:
    if not report.suspects:
        return report
    there = still_stored()
    suspects = tuple(
        one for one in report.suspects if one.sha256_a in there and one.sha256_b in there
    )
    return replace(report, suspects=suspects)


def _key(job_id: UUID) -> str:
    return f"{LABEL_REPORTS}{job_id}.json"
