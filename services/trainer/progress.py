"""Progress of a job, as the worker reports it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes:
        fraction: Share of the work done, 0..1.
        message: For a person to read.
        figures: Numbers by name, for instance epoch, loss, images_per_second.
    """

    fraction: float
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)


# Called at least once a training step; raising from it stops the training there.
Report = Callable[[Progress], None]


def stage(report: Report, message: str, start: float, end: float) -> Callable[[float], None]:
    """Make what reports the share done, 0..1, of a stage that lies between two fractions."""
    return lambda done: report(Progress(start + done * (end - start), message))
