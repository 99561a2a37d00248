"""Label reports: what a job found out about its labels, and what it left out.

They are stored in the object store.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, TypeAdapter

from services.trainer.data.labels import LabelledPair
from services.trainer.data.left_out import LeftOut, LeftOutImage
from shared.registry.label_reports import LABEL_REPORTS
from shared.storage.objects import ObjectStore


class Suspicion(StrEnum):
    """Why a label is suspected."""

    # By its votes and the similarity of its images it is more likely wrong than correct.
    UNLIKELY = "unlikely"
    # SAME labels connect the images of a DIFFERENT label, and no label between them has a
    # lower weight than this one.
    CONTRADICTION = "contradiction"


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Aliases are the keys of the stored JSON document.

    Attributes:
        same: The label.
        wrong_probability: Probability that it is wrong, 0..1.
        annotators: The annotators who voted for it.
    """

    sha256_a: str
    sha256_b: str
    same: bool
    wrong_probability: Annotated[float, Field(alias="wrong")]
    reason: Annotated[Suspicion, Field(alias="why")]
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class AnnotatorReliability:
    """How often an annotator is right.

    Rates from few votes are shrunk towards those of all annotators. Aliases are the keys of the
    stored JSON document.

    Attributes:
        votes: Number of votes, without the unsure ones.
        sensitivity: Share of the genuine pairs labelled SAME, 0..1.
        specificity: Share of the impostor pairs labelled DIFFERENT, 0..1.
    """

    annotator: str
    votes: int
    sensitivity: Annotated[float, Field(alias="genuine_right")]
    specificity: Annotated[float, Field(alias="impostor_right")]


@dataclass(frozen=True)
class LabelReport:
    """What a job found out about its labels.

    Attributes:
        pairs: Number of labelled pairs.
        wrong_share: Expected share of wrong labels, 0..1.
        treated: Whether the training weighted the labels by their probability of being correct
            and dropped the unlikely ones. It does not if next to none seem wrong.
        suspects: The most likely wrong first.
        annotators: The least reliable first.
        left_out: Images that the job does not use.
        held_out: SHA-256 of the images of the people on whom the gate decided.
    """

    pairs: int
    wrong_share: float
    treated: bool
    suspects: tuple[Suspect, ...]
    annotators: tuple[AnnotatorReliability, ...]
    left_out: tuple[LeftOutImage, ...] = ()
    held_out: tuple[str, ...] = ()

    @classmethod
    def of_left_out(cls, left_out: LeftOut) -> "LabelReport":
        """Make the report of a job that uses labels as they are."""
        return cls(left_out.of_pairs, 0.0, False, (), (), left_out.listed)

    def describe_labels(self) -> str:
        """Say how many labels the training did not use; empty if it used all."""
        unused = sum(self.treated or one.reason is Suspicion.CONTRADICTION for one in self.suspects)
        return f"{unused} labels are left out as probably wrong" if unused else ""


_REPORT = TypeAdapter(LabelReport)


def suspect(pair: LabelledPair, wrong_probability: float, reason: Suspicion) -> Suspect:
    """Make the entry of a pair's label."""
    annotators = tuple(vote.annotator for vote in pair.votes if vote.same == pair.same)
    return Suspect(pair.sha256_a, pair.sha256_b, pair.same, wrong_probability, reason, annotators)


def sort_suspects(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Sort by falling probability of being wrong, then by the images."""
    return tuple(
        sorted(suspects, key=lambda one: (-one.wrong_probability, one.sha256_a, one.sha256_b))
    )


def load_report(objects: ObjectStore, job_id: UUID) -> LabelReport:
    """Read the report of a job.

    Raises:
        NotFound: If none is stored.
        Unavailable: If the object store cannot be reached.
    """
    return _REPORT.validate_json(objects.get(_key(job_id)))


def store_report(objects: ObjectStore, job_id: UUID, report: LabelReport) -> None:
    """Store the report of a job.

    Raises:
        Unavailable: If the object store cannot be reached.
    """
    objects.put(_key(job_id), _REPORT.dump_json(report, by_alias=True))


def store_report_without_erased(
    objects: ObjectStore,
    job_id: UUID,
    report: LabelReport,
    stored_images: Callable[[], Collection[str]],
) -> None:
    """Store the report of a job without images that were erased in the meantime.

    An erasure deletes an image's labels first and then looks for reports that name the image.
    If it looks before the report is stored, the image is missing when the snapshot is read
    again afterwards. If it looks later, it finds the report.

    Args:
        objects: Where reports are stored.
        job_id: The job.
        report: Its report.
        stored_images: Returns the SHA-256 of the snapshot's images that are stored now.

    Raises:
        Unavailable: If a store cannot be reached.
    """
    current = _without_erased(report, stored_images)
    while True:
        store_report(objects, job_id, current)
        before, current = current, _without_erased(current, stored_images)
        if current == before:
            return


def _without_erased(
    report: LabelReport, stored_images: Callable[[], Collection[str]]
) -> LabelReport:
    if not (report.suspects or report.left_out or report.held_out):
        return report
    stored = stored_images()
    suspects = tuple(
        one for one in report.suspects if one.sha256_a in stored and one.sha256_b in stored
    )
    left_out = tuple(one for one in report.left_out if one.sha256 in stored)
    held_out = tuple(one for one in report.held_out if one in stored)
    return replace(report, suspects=suspects, left_out=left_out, held_out=held_out)


def _key(job_id: UUID) -> str:
    return f"{LABEL_REPORTS}{job_id}.json"
