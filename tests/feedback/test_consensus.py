import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.consensus import Consensus, Rule, Weighting, majority, weighted
from services.feedback.domain import Label

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


_AVERAGE = {Label.SAME: 2.0, Label.DIFFERENT: -2.0, Label.UNSURE: 0.1}
_CONTRARY = {Label.SAME: -3.0, Label.DIFFERENT: 3.0, Label.UNSURE: 0.0}
_WEIGHTING = Weighting(0.7, _AVERAGE, {"ada": dict(_AVERAGE), "con": _CONTRARY})


def test_the_confidence_of_weighted_votes_is_their_posterior() -> None:
    consensus = weighted({"ada": Label.SAME, "bob": Label.SAME, "con": Label.SAME}, 1, _WEIGHTING)
    assert consensus.label is Label.SAME
    assert consensus.confidence == pytest.approx(math.e / (math.e + 1))


def test_who_is_always_wrong_speaks_for_the_other_label() -> None:
    votes = {"ada": Label.DIFFERENT, "bob": Label.UNSURE, "con": Label.SAME}
    assert weighted(votes, 1, _WEIGHTING).label is Label.DIFFERENT


def test_a_label_that_nobody_gave_is_no_consensus() -> None:
    assert weighted({"con": Label.SAME}, 1, _WEIGHTING) == Consensus(None, 0.0)


def test_what_is_hardly_more_likely_than_not_is_no_consensus() -> None:
    near = Weighting(0.7, {**_AVERAGE, Label.DIFFERENT: -1.4}, {"ada": _AVERAGE})
    assert weighted({"bob": Label.SAME, "cyd": Label.DIFFERENT}, 1, near).label is None


def test_more_than_half_unsure_is_unsure_by_weight_too() -> None:
    votes = {"ada": Label.SAME, "bob": Label.UNSURE, "con": Label.UNSURE}
    assert weighted(votes, 1, _WEIGHTING) == majority(votes, 1)


@given(elections, st.integers(min_value=1, max_value=4))
def test_weights_that_know_nobody_leave_it_to_the_majority(
    votes: dict[str, Label], minimum: int
) -> None:
    assert Rule(minimum, Weighting(0.7, _AVERAGE, {})).judge(votes) == majority(votes, minimum)


@given(elections, st.integers(min_value=1, max_value=4))
def test_weighted_votes_are_judged_alike_in_any_order(
    votes: dict[str, Label], minimum: int
) -> None:
    backwards = dict(reversed(votes.items()))
    assert weighted(votes, minimum, _WEIGHTING) == weighted(backwards, minimum, _WEIGHTING)


@given(elections, st.integers(min_value=1, max_value=4))
def test_too_few_weighted_votes_are_no_consensus(votes: dict[str, Label], minimum: int) -> None:
    if len(votes) < minimum:
        assert weighted(votes, minimum, _WEIGHTING) == Consensus(None, 0.0)
