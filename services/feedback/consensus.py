"""From what several people say about a pair to what is held to be true."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from services.feedback.domain import Label

# Log odds that a pair is genuine after each of an annotator's possible answers.
AnswerOdds = Mapping[Label, float]


@dataclass(frozen=True, slots=True)
class Consensus:
    """What people agree on.

    Attributes:
        label: None while they are divided or too few.
        confidence: How sure it is, 0..1; 0 without a label.
    """

    label: Label | None
    confidence: float


@dataclass(frozen=True, slots=True)
class Weighting:
    """What the answers of annotators weigh.

    Attributes:
        bar: Log odds that a consensus must exceed.
        average: Of an annotator who is not among `own`.
        own: Of those whose labels overlap enough with what others say or what is known.
    """

    bar: float
    average: AnswerOdds
    own: Mapping[str, AnswerOdds]

    def odds(self, votes: Mapping[str, Label]) -> float:
        """Log odds that a pair is genuine, before its votes as likely as not.

        Summed exactly, so that the order of the votes does not matter.
        """
        return math.fsum(self.own.get(who, self.average)[label] for who, label in votes.items())


@dataclass(frozen=True, slots=True)
class Rule:
    """How votes are judged.

    Attributes:
        minimum_votes: With fewer there is no consensus.
        weighting: What they weigh; each the same if None, or if it knows nobody.
    """

    minimum_votes: int
    weighting: Weighting | None = None

    def judge(self, votes: Mapping[str, Label]) -> Consensus:
        """Say what people agree on, by the current vote of each."""
        if self.weighting is None or not self.weighting.own:
            return majority(votes, self.minimum_votes)
        return weighted(votes, self.minimum_votes, self.weighting)


def majority(votes: Mapping[str, Label], minimum_votes: int) -> Consensus:
    """Take the label that more than half of the annotators gave.

    An UNSURE counts as a vote: against either label, and for UNSURE. The confidence is the
    share of the votes that agree.

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


def weighted(votes: Mapping[str, Label], minimum_votes: int, weighting: Weighting) -> Consensus:
    """Take the label that is likely enough, given who said what.

    The confidence is the posterior probability of the label (naive Bayes over the votes, from
    even odds: pairs are chosen, so how common genuine ones are says nothing of this one). Whoever
    is wrong more often than right speaks for the other label, but a label that nobody gave is
    no consensus. Where more than half are UNSURE, so is the consensus, by `majority`.

    Args:
        votes: The current vote of each annotator.
        minimum_votes: With fewer votes there is no consensus.
        weighting: What the votes weigh.
    """
    given = Counter(votes.values())
    if len(votes) < max(minimum_votes, 1) or 2 * given[Label.UNSURE] > len(votes):
        return majority(votes, minimum_votes)
    odds = weighting.odds(votes)
    label = Label.SAME if odds > 0 else Label.DIFFERENT
    if abs(odds) <= weighting.bar or not given[label]:
        return Consensus(None, 0.0)
    return Consensus(label, 1 / (1 + math.exp(-abs(odds))))
