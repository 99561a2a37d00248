import pytest
from pydantic import ValidationError

from shared.model.operating_curve import FMRS, OperatingCurve
from tests.support.operating_curve import make_curve


def curve() -> OperatingCurve:
    """Thresholds 0, 0.1, .. 1.7 at the targets 1, 0.7, .. 1e-3."""
    return make_curve(*(-1 + 0.1 * number for number in range(18)))


def test_rates_fall_by_decades_from_one_to_a_millionth():
    assert FMRS[0] == 1
    assert FMRS[-1] == 1e-6
    assert list(FMRS) == sorted(set(FMRS), reverse=True)
    assert {1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 3e-4} <= set(FMRS)


@pytest.mark.parametrize(
    ("fmr", "kept"), [(0.1, 0.1), (0.01, 0.01), (0.012, 0.01), (0.0099, 0.007), (1e-5, 1.5e-3)]
)
def test_the_kept_rate_is_the_highest_that_is_not_above_the_target(fmr: float, kept: float):
    assert curve().at(fmr).target == kept


def test_the_rate_at_a_similarity_lies_between_those_of_the_thresholds_around():
    measured = curve()
    for point in measured.points:
        assert measured.false_match_rate(point.threshold) == pytest.approx(point.target)
    low, high = measured.points[8], measured.points[9]
    between = measured.false_match_rate((low.threshold + high.threshold) / 2)
    assert between == pytest.approx((low.target * high.target) ** 0.5)
    assert measured.false_match_rate(-1.0) == 1
    assert measured.false_match_rate(1.0) == measured.points[-1].target
    falling = [measured.false_match_rate(-1 + number / 100) for number in range(201)]
    assert falling == sorted(falling, reverse=True)


def test_equal_thresholds_give_the_higher_rate():
    measured = make_curve(-1, 0.2, 0.2, 0.3)
    assert measured.false_match_rate(0.2) == pytest.approx(0.7)


def test_more_people_are_asked_for_the_lower_the_rate():
    measured = curve()
    assert measured.missing_people(0.01) == 0
    # 2,000 pairs of 64 people: 10,000 pairs, which 1e-3 needs, are those of 64 * sqrt(5) people.
    assert measured.missing_people(1e-3) == 80
    assert measured.missing_people(1e-5) > measured.missing_people(1e-4) > 80


@pytest.mark.parametrize("thresholds", [(), (0.0, -0.5)])
def test_a_curve_that_is_none_is_refused(thresholds: tuple[float, ...]):
    with pytest.raises(ValidationError):
        make_curve(*thresholds)
