"""A service ends in time whatever is stuck, and its children with it."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import ServiceProcess, lives
from tests.support.waiting import wait_until


@pytest.mark.parametrize("what", ["thread", "child", "loop"])
def test_a_service_of_which_something_is_stuck_ends_soon_after_its_grace_period(
    tmp_path: Path, what: str
) -> None:
    file = tmp_path / "child"
    arguments = (what, str(file))
    with ServiceProcess("tests.shared.rpc.stuck", tmp_path / "service", {}, arguments) as process:
        process.start()
        child = int(file.read_text())
        if what == "loop":
            time.sleep(1.1)
        stopping = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
        assert time.monotonic() - stopping < 8
        assert "most recent call first" in process.log
        if what != "loop":
            assert "something is stuck" in process.log
            wait_until(lambda: not lives(child), 5)
