"""Tests of ``magface doctor``."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from magface.v1 import feedback_pb2

from cli.clients import feedback
from deploy.local.endpoints import Endpoints
from deploy.local.stack import Stack
from shared.storage.objects import ObjectStore, image_key
from tests.cli.conftest import Ask, Magface
from tests.support.waiting import wait_until

CHECKS = ["embedder", "feedback", "stored images", "held erasures", "trainer", "rollout"]


def problems(magface: Magface, *arguments: object) -> dict[str, str]:
    """Run the command, which must fail, and give what is wrong by check."""
    result = magface("doctor", "--json", *arguments)
    assert result.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    assert [one["check"] for one in findings] == CHECKS
    assert all(bool(one["problem"]) == bool(one["advice"]) for one in findings)
    return {one["check"]: one["problem"] for one in findings if one["problem"]}


def test_nothing_is_wrong_with_a_running_stack(ask: Ask, magface: Magface, stack: Stack) -> None:
    # The embedders of a new stack report within a second.
    wait_until(lambda: ask("models", "rollout")["complete"])
    assert [one["check"] for one in ask("doctor")["findings"]] == CHECKS
    shown = magface("doctor", "--dir", stack.folder).stdout
    assert shown.count(" ok") == len(CHECKS)


def test_without_a_stack_every_check_says_so(magface: Magface, tmp_path: Path) -> None:
    found = problems(magface, "--dir", tmp_path)
    assert list(found) == CHECKS
    assert found["trainer"] == "has no address"


def test_services_that_do_not_answer_or_are_not_ready_are_named(
    magface: Magface, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _unready_server() as unready:
        monkeypatch.setenv("MAGFACE_EMBEDDER_ADDRESS", unready)
        monkeypatch.setenv("MAGFACE_FEEDBACK_ADDRESS", endpoints.feedback)
        monkeypatch.setenv("MAGFACE_TRAINER_ADDRESS", "127.0.0.1:9")
        found = problems(magface)
    assert found == {
        "embedder": f"answers at {unready} and is not ready",
        "trainer": "does not answer at 127.0.0.1:9",
        "rollout": "is not known: the trainer is needed",
    }


def test_a_lost_image_is_counted(
    ask: Ask, magface: Magface, stack: Stack, objects: ObjectStore, pictures: list[Path]
) -> None:
    submit = ("feedback", "submit", pictures[0], pictures[2])
    label = ("--label", "different", "--annotator", "doctor", "--idempotency-key")
    ask(*submit, *label, "doctor-1")
    sha256 = hashlib.sha256(pictures[0].read_bytes()).hexdigest()
    objects.remove(image_key(sha256))
    with feedback(stack.folder) as stub, pytest.raises(grpc.RpcError):
        stub.GetImage(feedback_pb2.GetImageRequest(sha256=sha256), timeout=30)
    found = problems(magface, "--dir", stack.folder)
    assert found.keys() == {"stored images"}
    assert found["stored images"].startswith("1 of ")
    # What `magface doctor` advises.
    ask(*submit, *label, "doctor-2")
    assert objects.exists(image_key(sha256))
    assert ask("doctor")


@pytest.mark.usefixtures("held_erasure")
def test_an_erasure_that_waits_for_approval_is_named(
    ask: Ask, magface: Magface, stack: Stack
) -> None:
    found = problems(magface, "--dir", stack.folder)
    assert found.keys() == {"held erasures"}
    assert found["held erasures"].startswith("retention would erase 576 images")
    ask("feedback", "approve-erasure", "retention", "--by", "ann", "--images", 576)
    assert ask("doctor")


@contextmanager
def _unready_server() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()
