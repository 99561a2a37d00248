"""Packs what a training found out about its labels into the contract's messages."""

from typing import Final
from uuid import UUID

from magface.v1 import trainer_pb2 as pb

from services.trainer.suspects import LabelReport, Suspect, Suspicion
from shared.paging import Page

_REASONS: Final = {
    Suspicion.UNLIKELY: pb.SUSPECT_REASON_UNLIKELY,
    Suspicion.CONTRADICTION: pb.SUSPECT_REASON_CONTRADICTION,
}


def pack_report(job_id: UUID, report: LabelReport, page: Page) -> pb.ListSuspectsResponse:
    """Pack a page of a report.

    Args:
        job_id: The training's.
        report: What it found.
        page: Which part of it; the suspects are counted backwards, the surest being the last.
    """
    total = len(report.suspects)
    left = total if page.before is None else min(page.before, total)
    start = total - left
    end = start + page.size
    return pb.ListSuspectsResponse(
        job_id=str(job_id),
        suspects=map(_pack_suspect, report.suspects[start:end]),
        annotators=[]
        if start
        else [
            pb.AnnotatorReliability(
                annotator=one.annotator,
                votes=one.votes,
                genuine_right=one.genuine_right,
                impostor_right=one.impostor_right,
            )
            for one in report.annotators
        ],
        pairs=report.pairs,
        wrong_share=report.wrong_share,
        treated=report.treated,
        next_page_token=str(total - end) if end < total else "",
    )


def _pack_suspect(suspect: Suspect) -> pb.Suspect:
    return pb.Suspect(
        sha256_a=suspect.sha256_a,
        sha256_b=suspect.sha256_b,
        same=suspect.same,
        wrong_probability=suspect.wrong,
        reason=_REASONS[suspect.why],
        annotators=suspect.annotators,
    )
