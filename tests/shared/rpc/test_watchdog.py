"""A service ends in time whatever is stuck, and its children with it."""

import signal
import subprocess
import sys
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


def test_a_server_that_does_not_start_leaves_no_timer_that_ends_the_process() -> None:
    # Timers are per process, so another one tells.
    script = (
        "import contextlib, time\n"
        "from shared.errors import PreconditionFailed\n"
        "from shared.rpc.server import watchdog\n"
        "from shared.rpc.server.runner import run_server\n"
        "from shared.settings import ServerSettings\n"
        "watchdog._STUCK_S = 1.0\n"
        "def build(*_):\n"
        "    raise PreconditionFailed('it cannot start')\n"
        "with contextlib.suppress(SystemExit):\n"
        "    run_server(ServerSettings(), 'test.Service', build)\n"
        "time.sleep(1.5)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr
