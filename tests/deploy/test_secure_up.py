"""`magface up` with mutual TLS and tokens, used as docs/access.md says."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from cli.rendering.renderer import render_person
from deploy.local.endpoints import Endpoints
from tests.support.certificates import Authority, Files
from tests.support.tokens import Issuer, write_jwks
from tests.support.waiting import wait_until

_START_S = 120


def _magface(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_the_whole_stack_works_with_mutual_tls_and_tokens(tmp_path: Path) -> None:
    authority, issuer = Authority(), Issuer()
    services = Files(tmp_path / "services", authority)
    people = Files(tmp_path / "people", authority)
    folder = tmp_path / "run"
    service_token = tmp_path / "services.token"
    service_token.write_text(issuer.token("client", "trainer", subject="services"))
    environment = {
        "MAGFACE_TLS_CERTIFICATE": str(services.certificate),
        "MAGFACE_TLS_KEY": str(services.key),
        "MAGFACE_TLS_CA": str(services.ca),
        "MAGFACE_TLS_CLIENT_CA": str(services.ca),
        "MAGFACE_JWKS": str(write_jwks(tmp_path / "jwks", issuer)),
        "MAGFACE_TOKEN_FILE": str(service_token),
        "MAGFACE_FEEDBACK_POOL_POLL_S": "0.2",
    }

    def person(*roles: str, subject: str = "anna") -> dict[str, str]:
        return {
            "MAGFACE_TLS_CERTIFICATE": str(people.certificate),
            "MAGFACE_TLS_KEY": str(people.key),
            "MAGFACE_TLS_CA": str(people.ca),
            "MAGFACE_TOKEN": issuer.token(*roles, subject=subject),
        }

    pictures = []
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        path = tmp_path / "pictures" / f"{number}.png"
        cv2.imwrite(str(path), render_person(number // 2, number % 2))
        pictures.append(str(path))
    up = subprocess.Popen(
        [sys.executable, "-m", "cli", "up", "--dir", str(folder), "--embedders", "2"],
        env=os.environ | environment,
    )
    try:
        wait_until(lambda: Endpoints.read(folder) is not None or up.poll() is not None, _START_S)
        at = ("--dir", str(folder))
        aligned = ("--alignment", "aligned")
        verified = _magface(person("client"), "verify", *pictures[:2], *aligned, *at)
        assert verified.returncode == 0, verified.stderr
        doctor = _magface(person("operator"), "doctor", *at)
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        nobody = {name: value for name, value in person().items() if name != "MAGFACE_TOKEN"}
        refused = _magface(nobody, "verify", *pictures[:2], *aligned, *at)
        assert "UNAUTHENTICATED" in refused.stderr or "has no token" in refused.stderr
        refused = _magface(person("annotator"), "models", "list", *at)
        assert "needs the role operator" in refused.stderr
        same = ("--label", "same", *aligned, *at)
        labelled = _magface(person("annotator"), "feedback", "submit", *pictures[:2], *same)
        assert labelled.returncode == 0, labelled.stderr
        # The feedback service asks the embedder, and the trainer's worker the feedback service.
        command = ("feedback", "import-images", str(tmp_path / "pictures"), *at)
        imported = _magface(person("operator"), *command)
        assert imported.returncode == 0, imported.stderr

        def leased() -> bool:
            answer = _magface(person("annotator"), "feedback", "next", "--json", *at)
            return bool(json.loads(answer.stdout or "{}").get("pairs"))

        wait_until(leased, 60)
        train = _magface(person("operator"), "train", "--wait", *at)
        assert "pairs" in train.stdout + train.stderr
        assert "cannot be reached" not in train.stdout + train.stderr
        jobs = json.loads(_magface(person("operator"), "jobs", "list", "--json", *at).stdout)
        assert jobs["jobs"][0]["requested_by"] == "anna"
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
