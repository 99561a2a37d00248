"""Rows of the benchmark of the gate."""

import numpy as np

from tests.benchmarks.gate.benchmark import ROWS, GateRow


def test_labels_that_say_nothing_are_of_people_who_do_not_exist() -> None:
    persons = np.repeat(np.arange(400), 4)
    right, random = (GateRow(feedback, 0).pairs(persons) for feedback in ("gain", "null"))
    assert len(right.same) == len(random.same) == 1000
    assert right.same.sum() == random.same.sum() == 500
    (same_person, by_chance) = (
        persons[each.rows][:, 0] == persons[each.rows][:, 1] for each in (right, random)
    )
    assert np.array_equal(right.same, same_person)
    assert by_chance[random.same].mean() < 0.02


def test_few_people_have_a_tenth_of_the_feedback() -> None:
    many, few = GateRow("gain", 0), GateRow("few", 0)
    persons = [np.repeat(np.arange(row.people), 4) for row in (many, few)]
    assert len(persons[0]) == 10 * len(persons[1])
    assert len(many.pairs(persons[0]).same) == 10 * len(few.pairs(persons[1]).same)


def test_each_kind_of_feedback_has_ten_seeds() -> None:
    assert len(set(ROWS)) == 30
    assert {row.seed for row in ROWS} == set(range(10))
