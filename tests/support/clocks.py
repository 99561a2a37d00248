"""Processes whose clock is wrong."""

import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

_REAL_TIME, _REAL_TIME_NS = time.time, time.time_ns


def set_wrong_clock(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    """Make the clock of this process wrong for all modules of the product that are loaded."""

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(_REAL_TIME(), UTC).astimezone(tz) + ahead

    monkeypatch.setattr(time, "time", lambda: _REAL_TIME() + ahead.total_seconds())
    monkeypatch.setattr(
        time, "time_ns", lambda: _REAL_TIME_NS() + ahead // timedelta(microseconds=1) * 1000
    )
    for name, module in list(sys.modules.items()):
        if name.startswith(("services.", "shared.")) and vars(module).get("datetime") is datetime:
            monkeypatch.setattr(module, "datetime", WrongClock)
