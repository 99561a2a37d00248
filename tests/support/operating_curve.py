"""Operating curves with given thresholds."""

from shared.model.operating_curve import FMRS, Evidence, OperatingCurve, OperatingPoint, Rate


def make_curve(*thresholds: float) -> OperatingCurve:
    """Return a curve with a threshold for each target from 1 down."""
    rate = Rate(value=0.1, low=0.05, high=0.2)
    points = [
        OperatingPoint(target=target, threshold=threshold, fmr=rate, fnmr=rate)
        for target, threshold in zip(FMRS, thresholds, strict=False)
    ]
    return OperatingCurve(
        points=tuple(points),
        impostor=Evidence(pairs=2000, people=64),
        genuine=Evidence(pairs=100, people=64),
    )
