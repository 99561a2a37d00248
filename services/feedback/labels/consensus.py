"""Label aggregation: majority vote."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from services.feedback.labels.types import Label


@dataclass(frozen=True, slots=True)
class Consensus:
    """The label that the annotators of a pair agree on.

    Attributes:
        label: None without a majority or with too few votes.
        confidence: Share of the votes that agree with the label, 0..1; 0 without a label.
    """

    label: Label | None
    confidence: float


def majority(votes: Mapping[str, Label], minimum_votes: int) -> Consensus:
    """Choose the label that more than half of the annotators gave.

    UNSURE counts like any other label.

    Args:
        votes: The current vote of each annotator.
        minimum_votes: With fewer votes there is no consensus.
    """
    if not votes or len(votes) < minimum_votes:
        return Consensus(None, 0.0)
    label, count = Counter(votes.values()).most_common(1)[0]
    if 2 * count <= len(votes):
        return Consensus(None, 0.0)
    return Consensus(label, count / len(votes))
