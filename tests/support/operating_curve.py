"""Operating curves with given thresholds."""

from shared.model.operating_curve import FMRS, Evidence, OperatingCurve, OperatingPoint, Rate


def make_curve(*thresholds: float) -> OperatingCurve:
    """Return a curve with a threshold for each target from 1 down."""
    points = zip(FMRS[1:], thresholds[1:], strict=False)
    return curve_at(*points, all_accepted=thresholds[0] if thresholds else None)


def curve_at(*thresholds: tuple[float, float], all_accepted: float | None = -1.0) -> OperatingCurve:
    """Return a curve with these targets below 1 and their thresholds.

    Args:
        thresholds: By falling target.
        all_accepted: The threshold of target 1; None leaves it out.
    """
    rate = Rate(value=0.1, low=0.05, high=0.2)
    points = [
        OperatingPoint(target=target, threshold=threshold, fmr=rate, fnmr=rate)
        for target, threshold in ((1.0, all_accepted), *thresholds)
        if threshold is not None
    ]
    return OperatingCurve(
        points=tuple(points),
        impostor=Evidence(pairs=2000, people=64),
        genuine=Evidence(pairs=100, people=64),
    )
