"""Test of an import during which the service is killed and restarted."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from magface.v1 import feedback_pb2_grpc

from cli.images import AlignmentChoice
from cli.transfer.import_labels import import_pair_set
from shared.datasets.pair_files import read_pair_file
from shared.rpc.channel import open_sync_channel
from tests.services.feedback.support.helpers import picture
from tests.services.feedback.support.stack import running_stack
from tests.support.waiting import wait_until

_PAIRS = 600


def _pair_file(folder: Path) -> Path:
    names = [f"{number}.png" for number in range(60)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(number))
    chosen = [(a, b) for a in range(60) for b in range(a)][:_PAIRS]
    entries = [{"image1": names[a], "image2": names[b], "label": (a + b) % 2} for a, b in chosen]
    file = folder / "pairs.json"
    file.write_text(json.dumps({"pairs": entries}))
    return file


@pytest.mark.slow
def test_an_import_goes_on_where_a_killed_service_left_off(tmp_path: Path) -> None:
    pair_set = read_pair_file(_pair_file(tmp_path))
    with (
        running_stack(tmp_path / "parts") as parts,
        open_sync_channel(parts.service.address) as channel,
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(parts.database_url, autocommit=True) as connection,
    ):

        def stored() -> int:
            row = connection.execute("SELECT count(*) FROM feedback.labels").fetchone()
            assert row is not None
            return int(row[0])

        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        importing = pool.submit(import_pair_set, stub, pair_set, "bulk", AlignmentChoice.AUTO)
        wait_until(lambda: stored() > 20, 20)
        parts.service.kill()
        assert stored() < _PAIRS
        parts.service.start()
        done = importing.result(timeout=60)
        assert stored() == _PAIRS
    assert done.rejected == []
    assert done.created + done.known == _PAIRS
