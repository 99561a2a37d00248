"""Pauses of a job while something that it needs cannot be reached."""

from dataclasses import dataclass
from typing import Final

_FIRST_PAUSE_S: Final = 2.0
_LAST_PAUSE_S: Final = 60.0


@dataclass(frozen=True)
class Pause:
    """What a job does after it has met an outage.

    Attributes:
        seconds: Time until the next try; None if the job has waited long enough and is given up.
        message: The reason and the pause, for people.
    """

    seconds: float | None
    message: str


def plan_pause(reason: str, waited_s: float, limit_s: float) -> Pause:
    """Decide how long to wait after a failed try.

    The pause is as long as the job has waited so far, 2 to 60 seconds, and the last try is made
    when the limit is reached.

    Args:
        reason: Error of the try.
        waited_s: Seconds since the first failed try of this outage.
        limit_s: Longest outage that is waited out, in seconds.
    """
    left_s = limit_s - waited_s
    if left_s <= 0:
        waited = f"{waited_s:.0f} s; MAGFACE_OUTAGE_LIMIT_S is {limit_s:g}"
        return Pause(None, f"{reason}; given up after {waited}")
    seconds = round(min(max(waited_s, _FIRST_PAUSE_S), _LAST_PAUSE_S, left_s), 1)
    waited = f"waited {waited_s:.0f} s, at most {limit_s:g} s"
    return Pause(seconds, f"{reason}; trying again in {seconds:g} s ({waited})")
