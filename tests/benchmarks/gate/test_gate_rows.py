"""Rows of the benchmark of the gate."""

import numpy as np

from tests.benchmarks.gate.benchmark import ROWS, GateRow


def test_labels_that_show_nothing_are_the_same_ones_on_other_pairs() -> None:
    persons = np.repeat(np.arange(400), 4)
    right, shuffled = (GateRow(feedback, 0).pairs(persons) for feedback in ("gain", "null"))
    assert np.array_equal(right.rows, shuffled.rows)
    assert right.same.sum() == shuffled.same.sum()
    same_person = persons[right.rows][:, 0] == persons[right.rows][:, 1]
    assert np.array_equal(right.same, same_person)
    assert 0.4 < (shuffled.same == same_person).mean() < 0.6


def test_few_people_have_a_tenth_of_the_feedback() -> None:
    many, few = GateRow("gain", 0), GateRow("few", 0)
    persons = [np.repeat(np.arange(row.people), 4) for row in (many, few)]
    assert len(persons[0]) == 10 * len(persons[1])
    assert len(many.pairs(persons[0]).same) == 10 * len(few.pairs(persons[1]).same)


def test_each_kind_of_feedback_has_ten_seeds() -> None:
    assert len(set(ROWS)) == 30
    assert {row.seed for row in ROWS} == set(range(10))
