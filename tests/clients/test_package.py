"""The package of the Python client: what it needs, and its copy of the contract."""

import json
import re
import struct
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf.message import Message
from magface.v1 import feedback_pb2 as other_stubs
from magface_client import calls
from magface_client.pictures import picture_size
from magface_client.results import Face, SuspectRecord, Verification
from magface_client.stubs import embedder_pb2, feedback_pb2, trainer_pb2

from shared.model.image.decoding.inspector import read_header

PACKAGE = Path(__file__).parents[2] / "clients" / "python"
ALLOWED = ("grpc", "google", "typing_extensions.py")
HEAVY = "torch, onnxruntime, cv2, numpy, PIL, pydantic, rich"

IMPORT = """
import json, sys, time
begin = time.perf_counter()
import magface_client
took = time.perf_counter() - begin
client = magface_client.Client(access=magface_client.Access())
print(json.dumps({"file": magface_client.__file__, "took": took, "modules": sorted(sys.modules)}))
"""


def test_the_wheel_needs_little(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, fresh, allowed = tmp_path / "wheels", tmp_path / "venv", tmp_path / "allowed"
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", PACKAGE, source], check=True)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run([*pip, *build], check=True)
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    install = ["--python", python, "install", "--no-index", "--no-deps", *wheels.glob("*.whl")]
    subprocess.run([*pip, *install], check=True)
    # Of the installed packages only those that the wheel names.
    allowed.mkdir()
    for name in ALLOWED:
        (allowed / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    run = subprocess.run(
        [python, "-c", IMPORT],
        env={"PYTHONPATH": str(allowed)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    seen = json.loads(run.stdout)
    assert seen["file"].startswith(str(fresh))
    assert not set(HEAVY.split(", ")) & {name.partition(".")[0] for name in seen["modules"]}
    (metadata,) = fresh.rglob("magface_client-*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", metadata.read_text(), re.MULTILINE)
    needed = {name for name, rest in required if "extra" not in rest}
    assert needed == {"grpcio", "protobuf", "googleapis-common-protos"}
    assert list(fresh.rglob("magface_client/py.typed"))
    assert list(fresh.rglob("magface_client/stubs/embedder_pb2.pyi"))


def test_the_stubs_stand_beside_others() -> None:
    ours = feedback_pb2.SubmitFeedbackRequest(annotator="anna")
    theirs = other_stubs.SubmitFeedbackRequest.FromString(ours.SerializeToString())
    assert theirs.annotator == "anna"
    assert type(theirs) is not type(ours)
    assert theirs.DESCRIPTOR.file.serialized_pb == ours.DESCRIPTOR.file.serialized_pb


def _fill(message: Message, depth: int = 0) -> Message:
    """Set every field, with one element in each list."""
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is None:
                value["key"] = 1
            else:
                _fill(value["key"], depth + 1)
        elif field.message_type is not None:
            _fill(value.add() if field.is_repeated else value, depth + 1)
        elif field.is_repeated:
            value.append("text" if field.type == field.TYPE_STRING else 1)
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, "text")
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, struct.pack("<2f", 3, 4))
        else:
            setattr(message, field.name, 1)
    return message


def _all_calls() -> list[calls.Call[Any, Any, Any] | calls.Listing[Any, Any, Any]]:
    verify = calls.verify(b"a", b"b", None, "")
    verified = verify.read(_fill(embedder_pb2.VerifyResponse()))
    return [
        verify,
        calls.embed([b"a"], ""),
        calls.detect_faces(b"a"),
        calls.model(),
        calls.contest(verified, None, annotator="", sureness=1),
        calls.next_pairs("", 1, "mix"),
        calls.image("a"),
        calls.pairs("same"),
        calls.audit(),
        calls.jobs(),
        calls.models(),
        calls.operating_points(),
        calls.promotions(),
        calls.evaluations(""),
        calls.suspects(""),
        calls.left_out("a"),
    ]


@pytest.mark.parametrize("call", _all_calls(), ids=lambda call: call.method.name)
def test_every_response_can_be_read(call: Any) -> None:
    for response in (call.method.response(), _fill(call.method.response())):
        result = call.read(response)
        if isinstance(call, calls.Listing):
            list(result)


def test_values_are_converted() -> None:
    read = calls.verify(b"a", b"b", None, "").read
    full = read(_fill(embedder_pb2.VerifyResponse()))
    assert isinstance(full, Verification)
    assert full.decision == "same"
    assert isinstance(full.face_a, Face)
    assert full.face_a.vector == (3, 4)
    assert full.face_a.model_version == "text"
    assert (full.probability, full.kept_fmr) == (1, 1)
    empty = read(embedder_pb2.VerifyResponse(decision=17))  # of a later release
    assert empty.decision == "unspecified"
    assert (empty.face_a, empty.probability, empty.kept_fmr) == (None, None, None)
    (job,) = calls.jobs().read(_fill(trainer_pb2.ListJobsResponse()))
    assert (job.kind, job.state, job.stage) == ("train", "queued", "queued")
    assert job.created_at.timestamp() == pytest.approx(1, abs=1e-3)
    (evaluation,) = calls.evaluations("").read(_fill(trainer_pb2.ListEvaluationsResponse()))
    assert evaluation.against.figures.intervals["key"].low == 1
    (suspect,) = calls.suspects("").read(_fill(trainer_pb2.ListSuspectsResponse()))
    assert suspect == SuspectRecord("text", "text", True, 1, "unlikely", ("text",))


def test_pages_of_the_latest_job_are_of_one_job() -> None:
    listing = calls.suspects("")
    first = listing.page(listing.request)
    _, request = first.read(trainer_pb2.ListSuspectsResponse(job_id="7", next_page_token="t"))
    assert request is not None
    assert (request.job_id, request.page_token) == ("7", "t")
    assert listing.page(request).read(trainer_pb2.ListSuspectsResponse(job_id="7"))[1] is None


@pytest.mark.parametrize("size", [(112, 112), (112, 113), (640, 480), (1, 1)])
@pytest.mark.parametrize(
    "form",
    [".png", ".jpg", ".bmp", ".webp", ".webp lossless", ".jpg progressive"],
)
def test_sizes_are_read_as_by_the_server(form: str, size: tuple[int, int]) -> None:
    ending, _, kind = form.partition(" ")
    options = {
        "lossless": [cv2.IMWRITE_WEBP_QUALITY, 101],
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "": [cv2.IMWRITE_WEBP_QUALITY, 80] if ending == ".webp" else [],
    }[kind]
    pixels = np.full((size[1], size[0], 3), 77, np.uint8)
    data = cv2.imencode(ending, pixels, options)[1].tobytes()
    header = read_header(data)
    assert picture_size(data) == (header.width, header.height) == size
    for cut in range(0, min(len(data), 40)):
        picture_size(data[:cut])
