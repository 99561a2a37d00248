"""``python -m tests.shared.rpc.stuck WHAT FILE``: a service of which something is stuck.

FILE gets the id of a child process.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from shared.rpc.server import runner, watchdog
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import run_server
from shared.settings import ServerSettings


def _main(what: str, file: str) -> None:
    child = subprocess.Popen(["sleep", "300"], start_new_session=what == "child")
    Path(file).write_text(str(child.pid))

    @asynccontextmanager
    async def build(_server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        await lifecycle.set_ready(True)
        tasks = []
        if what == "thread":
            tasks.append(asyncio.create_task(asyncio.to_thread(time.sleep, 300)))
        if what == "loop":
            asyncio.get_running_loop().call_later(1, time.sleep, 300)
        yield
        if what == "child":
            await asyncio.to_thread(child.wait)

    runner._CLOSE_S = 0.5  # type: ignore[misc]
    if what == "loop":
        watchdog._STUCK_S, watchdog._LOOK_EVERY_S = 2.0, 0.2  # type: ignore[misc]
    run_server(ServerSettings(stop_grace_s=0.2), "stuck.Service", build)


if __name__ == "__main__":
    _main(*sys.argv[1:])
