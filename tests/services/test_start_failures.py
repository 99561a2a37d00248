"""What a service says and does when a store refuses it, or is away, at the start."""

import secrets
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.rpc.health import answers
from shared.settings import ObjectStoreSettings
from tests.support.processes import NOWHERE, ServiceProcess, free_port, service_environment
from tests.support.waiting import wait_until

_WITHIN_S = 10.0
_IMPORTS_S = 30.0


def _process(
    tmp_path: Path, service: str, database_url: str, s3: ObjectStoreSettings
) -> ServiceProcess:
    environment = service_environment(
        database_url,
        s3,
        feedback_address=NOWHERE,
        cache_dir=tmp_path / "cache",
        work_dir=tmp_path / "work",
    )
    return ServiceProcess(f"services.{service}", tmp_path / service, environment)


@pytest.mark.parametrize("service", ["feedback", "trainer"])
@pytest.mark.parametrize("wrong", ["password", "user", "name"])
def test_a_database_that_refuses_ends_the_service_with_one_line(
    tmp_path: Path,
    database_url: str,
    object_store_settings: ObjectStoreSettings,
    service: str,
    wrong: str,
) -> None:
    user, _, rest = database_url.removeprefix("postgresql://").partition(":")
    password, _, place = rest.partition("@")
    guess = secrets.token_hex(8)
    match wrong:
        case "password":
            url = f"postgresql://{user}:{guess}@{place}"
        case "user":
            url = f"postgresql://{guess}:{password}@{place}"
        case _:
            url = f"postgresql://{user}:{password}@{place.partition('/')[0]}/{guess}"
    with _process(tmp_path, service, url, object_store_settings) as process:
        process.launch()
        assert process.wait(_IMPORTS_S + _WITHIN_S) == 1
        last = process.log.splitlines()[-1]
        assert "cannot run: " in last
        assert "FATAL" in last
        assert "Traceback" not in process.log
        assert password not in process.log


@pytest.mark.parametrize("service", ["embedder", "feedback", "trainer"])
def test_an_object_store_that_refuses_ends_the_service_with_one_line(
    tmp_path: Path,
    database_url: str,
    object_store_settings: ObjectStoreSettings,
    service: str,
) -> None:
    guess = SecretStr(secrets.token_hex(8))
    wrong = object_store_settings.model_copy(update={"s3_secret_key": guess})
    with _process(tmp_path, service, database_url, wrong) as process:
        process.launch()
        assert process.wait(_IMPORTS_S + _WITHIN_S) == 1
        last = process.log.splitlines()[-1]
        assert "cannot run: the object store refuses a request" in last
        assert "Traceback" not in process.log
        assert guess.get_secret_value() not in process.log


@pytest.mark.parametrize("service", ["feedback", "trainer"])
def test_a_database_that_is_away_is_named_once_and_waited_for(
    tmp_path: Path, object_store_settings: ObjectStoreSettings, service: str
) -> None:
    port = free_port()
    url = f"postgresql://me:secret-word@127.0.0.1:{port}/x"
    with _process(tmp_path, service, url, object_store_settings) as process:
        address = process.start()
        started = time.monotonic()
        wait_until(lambda: f"port {port}" in process.log, _WITHIN_S)
        assert time.monotonic() - started < _WITHIN_S
        assert answers(address, 5)
        assert process.log.count("preparation of the stores failed") == 1
        assert "secret-word" not in process.log
