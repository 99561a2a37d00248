"""Tests that are marked ``alone`` run while no other does."""

import threading
from pathlib import Path

from tests.support.turns import turn
from tests.support.waiting import wait_until


def test_one_that_is_alone_waits_for_others_and_keeps_new_ones_waiting(tmp_path: Path) -> None:
    began: list[str] = []
    may_end = {name: threading.Event() for name in ("first", "second", "alone", "late")}

    def run(name: str) -> threading.Thread:
        def target() -> None:
            with turn(tmp_path, alone=name == "alone"):
                began.append(name)
                may_end[name].wait(30)

        thread = threading.Thread(target=target)
        thread.start()
        return thread

    threads = [run("first"), run("second")]
    wait_until(lambda: len(began) == 2)
    threads.append(run("alone"))
    threads[-1].join(0.1)
    threads.append(run("late"))
    threads[-1].join(0.1)
    assert sorted(began) == ["first", "second"]
    may_end["first"].set()
    may_end["second"].set()
    wait_until(lambda: began[2:] == ["alone"])
    threads[-1].join(0.1)
    assert began[2:] == ["alone"]
    may_end["alone"].set()
    wait_until(lambda: began[3:] == ["late"])
    may_end["late"].set()
    for thread in threads:
        thread.join()
