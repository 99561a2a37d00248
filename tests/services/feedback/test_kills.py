"""Tests that kill the service and its stores under load: no acknowledged label is lost."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.s3_nanio import NanioServer, S3Server
from tests.services.feedback.support.kill_harness import (
    Count,
    Load,
    corrupt,
    count,
    kill_under_load,
)
from tests.services.feedback.support.stack import FeedbackStack, running_stack
from tests.support.seaweedfs import SeaweedServer

# Short timeouts, so that a killed store is noticed soon, and a sweep that runs all the time.
_HASTY = {
    "MAGFACE_DATABASE_TIMEOUT_S": "2",
    "MAGFACE_S3_TIMEOUT_S": "0.5",
    "MAGFACE_FEEDBACK_ORPHAN_GRACE_S": "0",
    "MAGFACE_FEEDBACK_SWEEP_EVERY_S": "0.5",
    # The same images are stored and erased again and again.
    "MAGFACE_FEEDBACK_TOMBSTONE_DAYS": "0",
}
_NOTHING_WRONG = Count([], [], [], [], [], [])
# An interrupted removal is taken over after eight S3 timeouts, and looked for every 5 s.
_SETTLES_S = 40


def _settled(parts: FeedbackStack, load: Load) -> Count:
    """Count until erasures and sweep have finished; a loss fails at once."""
    deadline = time.monotonic() + _SETTLES_S
    while (found := count(parts, load)) != _NOTHING_WRONG and time.monotonic() < deadline:
        assert (found.lost, found.repeated, found.missing) == ([], [], [])
        time.sleep(0.2)
    return found


async def test_one_kill_of_each_loses_nothing(tmp_path: Path) -> None:
    with running_stack(tmp_path, changes=_HASTY) as parts:
        load = await kill_under_load(parts, parts.servers, seed=1)
        assert _settled(parts, load) == _NOTHING_WRONG
        _require_that_the_checker_sees(parts, load)


def _require_that_the_checker_sees(parts: FeedbackStack, load: Load) -> None:
    parts.service.stop()
    load.acknowledged["nobody"] = ("a", "b", "same")
    corrupt(parts)
    found = count(parts, load)
    assert found.lost == ["nobody"]
    assert len(found.missing) == len(found.orphans) == 1
    assert found.wrong
    assert found.unfinished == ["forgotten"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("object_store", "kills"), [(NanioServer, 30), (SeaweedServer, 12)])
async def test_kills_at_random_lose_nothing(
    tmp_path: Path, object_store: Callable[[Path], S3Server], kills: int
) -> None:
    with running_stack(tmp_path, object_store, _HASTY) as parts:
        victims = random.Random(kills).choices(parts.servers, k=kills)
        load = await kill_under_load(parts, victims, seed=kills)
        assert _settled(parts, load) == _NOTHING_WRONG
    assert len(load.acknowledged) > 20 * kills
