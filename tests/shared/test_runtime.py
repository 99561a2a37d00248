import asyncio
import logging
import subprocess
import sys
from contextlib import suppress

import pytest

from shared.errors import Conflict, Unavailable
from shared.runtime import backoff_s, repeat


async def run_steps(outcomes: list[Exception | None]) -> int:
    """Run a loop until all outcomes are used; return the number of steps."""
    steps = 0
    done = asyncio.Event()

    async def step() -> None:
        nonlocal steps
        if steps == len(outcomes):
            done.set()
            await asyncio.Event().wait()
        outcome = outcomes[steps]
        steps += 1
        if outcome is not None:
            raise outcome

    loop = asyncio.create_task(repeat("the work", step, 0.0))
    await asyncio.wait_for(done.wait(), 10)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop
    return steps


async def test_a_loop_survives_any_exception() -> None:
    outcomes = [Unavailable("gone"), ValueError("odd"), None, KeyError("x"), Conflict("late"), None]
    assert await run_steps(outcomes) == len(outcomes)


async def test_failures_of_one_type_in_a_row_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "shared.runtime")
    away = [Unavailable(f"gone {i}") for i in range(3)]
    await run_steps([*away, None, None, Unavailable("gone again")])
    assert [record.getMessage() for record in caplog.records] == [
        "the work failed, retrying: gone 0",
        "the work succeeded again",
        "the work failed, retrying: gone again",
    ]


async def test_an_unexpected_failure_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run_steps([Unavailable("gone"), ValueError("odd")])
    assert caplog.records[-1].exc_info is not None
    assert len(caplog.records) == 2


def test_the_log_shows_the_details_of_an_error_and_of_its_causes() -> None:
    script = (
        "import logging\n"
        "from shared.errors import NotFound, Unavailable\n"
        "from shared.runtime import start_log\n"
        "start_log('WARNING', '%(message)s')\n"
        "error = Unavailable('no answer', detail='10.0.0.7:5432')\n"
        "error.__cause__ = NotFound('gone', detail='/srv/pg')\n"
        "logging.getLogger('some').warning('%s failed: %s', 'the work', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == "the work failed: no answer (10.0.0.7:5432; /srv/pg)\n"


async def test_a_cancelled_loop_ends() -> None:
    loop = asyncio.create_task(repeat("the work", asyncio.Event().wait, 0.0))
    await asyncio.sleep(0)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


def test_pauses_double_up_to_the_limit() -> None:
    pauses = [backoff_s(failures, first_s=0.5, last_s=3.0) for failures in range(1, 6)]
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff_s(10_000, first_s=0.5, last_s=60.0) == 60.0
