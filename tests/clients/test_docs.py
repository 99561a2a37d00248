"""The Python examples of the documentation work as they are written."""

import re
from pathlib import Path

import pytest

from deploy.local.endpoints import Endpoints

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["docs/client.md", "README.md"])
def test_the_examples_run_in_their_order(
    page: str,
    endpoints: Endpoints,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("embedder", "feedback", "trainer"):
        monkeypatch.setenv(f"MAGFACE_{name.upper()}_ADDRESS", getattr(endpoints, name))
    for name, picture in (("a.jpg", pictures[0]), ("b.jpg", pictures[1])):
        (tmp_path / name).write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # noqa: S102
