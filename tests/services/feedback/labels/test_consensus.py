from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.feedback.labels.consensus import majority
from services.feedback.labels.types import Label

labels = st.sampled_from(Label)
elections = st.dictionaries(st.text(min_size=1), labels, max_size=12)


def _votes(same: int = 0, different: int = 0, unsure: int = 0) -> dict[str, Label]:
    votes = [Label.SAME] * same + [Label.DIFFERENT] * different + [Label.UNSURE] * unsure
    return {f"annotator-{number}": vote for number, vote in enumerate(votes)}


def test_more_than_half_is_a_consensus() -> None:
    consensus = majority(_votes(same=3, different=1, unsure=1), 1)
    assert (consensus.label, consensus.confidence) == (Label.SAME, 0.6)


def test_a_tie_is_no_consensus() -> None:
    assert majority(_votes(same=2, different=2), 1).label is None


def test_a_plurality_is_no_consensus() -> None:
    assert majority(_votes(same=2, different=1, unsure=1), 1).label is None


def test_an_unsure_vote_weighs_against_both() -> None:
    assert majority(_votes(same=1, unsure=1), 1).label is None
    assert majority(_votes(same=1, unsure=2), 1).label is Label.UNSURE


def test_nobody_agrees_on_nothing() -> None:
    assert majority({}, 1).label is None


@given(elections, st.integers(1, 12))
def test_a_consensus_is_what_most_said_and_enough_said_it(
    votes: dict[str, Label], minimum: int
) -> None:
    consensus = majority(votes, minimum)
    counts = Counter(votes.values())
    if consensus.label is None:
        assert consensus.confidence == 0
        assert len(votes) < minimum or max(counts.values(), default=0) * 2 <= len(votes)
    else:
        assert len(votes) >= minimum
        assert consensus.confidence == counts[consensus.label] / len(votes) > 0.5


@given(elections, st.integers(1, 3))
def test_the_order_of_votes_does_not_matter(votes: dict[str, Label], minimum: int) -> None:
    assert majority(votes, minimum) == majority(dict(reversed(votes.items())), minimum)


@given(elections, st.integers(1, 3))
def test_one_more_vote_for_the_consensus_keeps_it(votes: dict[str, Label], minimum: int) -> None:
    consensus = majority(votes, minimum)
    if consensus.label is not None:
        more = majority(votes | {"": consensus.label}, minimum)
        assert more.label is consensus.label
        assert more.confidence >= consensus.confidence
