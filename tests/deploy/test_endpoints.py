"""The file with the addresses of a running stack."""

from pathlib import Path

import pytest

from deploy.local.endpoints import Endpoints
from shared.errors import PreconditionFailed

_SECRET = "topsecret"
_DAMAGED = (
    f'{{"database_url": "postgresql://magface:{_SECRET}@127.0.0.1/x", "s3": {{"secret_key": '
    f'"{_SECRET}"}}, "pid": "{_SECRET}"}}'
)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", _DAMAGED])
def test_a_damaged_file_is_one_line_without_its_secrets(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoints.json").write_text(content)
    with pytest.raises(PreconditionFailed, match=r"endpoints\.json is damaged") as caught:
        Endpoints.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert _SECRET not in str(caught.value)
