"""Packs what was measured into the contract's messages."""

from collections.abc import Mapping
from typing import Final

from magface.v1 import trainer_pb2 as pb

from services.trainer.evaluation_result import AgainstVersion
from services.trainer.evaluations import StoredEvaluation
from shared.evaluation.figures import Difference, Evaluation, Interval
from shared.rpc.timestamps import pack_timestamp

CHUNK_BYTES: Final = 2**20
_VALUES: Final = (
    "accuracy",
    "precision",
    "recall",
    "best_accuracy",
    "best_threshold",
    "auc",
    "eer",
    "mean_magnitude",
)


def pack_evaluation(stored: StoredEvaluation) -> pb.Evaluation:
    """Pack a result."""
    result = stored.result
    return pb.Evaluation(
        job_id=str(stored.job_id),
        model_version=result.model_version,
        data_snapshot=result.data_snapshot,
        at=pack_timestamp(stored.at),
        pairs_trained_on=result.pairs_trained_on,
        figures=_pack_figures(result.evaluation),
        against=_pack_against(result.against) if result.against else None,
    )


def _pack_figures(evaluation: Evaluation) -> pb.Figures:
    values = {name: getattr(evaluation, name) for name in _VALUES}
    values |= {f"tar_at_far.{far}": tar for far, tar in evaluation.tar_at_far.items()}
    return pb.Figures(
        images=evaluation.images,
        genuine_pairs=evaluation.genuine_pairs,
        impostor_pairs=evaluation.impostor_pairs,
        threshold=evaluation.threshold,
        tp=evaluation.tp,
        tn=evaluation.tn,
        fp=evaluation.fp,
        fn=evaluation.fn,
        values={name: value for name, value in values.items() if value is not None},
        intervals=_pack_intervals(evaluation.intervals),
    )


def _pack_against(against: AgainstVersion) -> pb.VersionComparison:
    comparison = against.comparison
    return pb.VersionComparison(
        model_version=against.model_version,
        figures=_pack_figures(against.evaluation),
        fixed=comparison.mcnemar.fixed,
        broken=comparison.mcnemar.broken,
        p_value=comparison.mcnemar.p_value,
        difference_intervals=_pack_intervals(comparison.differences),
    )


def _pack_intervals(intervals: Mapping[str, Interval | Difference]) -> dict[str, pb.Interval]:
    return {name: pb.Interval(low=each.low, high=each.high) for name, each in intervals.items()}
