"""The document names the licence of every package that is installed."""

import re
from pathlib import Path

import pytest

from deploy import licences

_ROOT = Path(__file__).parents[2]


def test_the_licence_of_every_pinned_package_is_in_the_document() -> None:
    document = (_ROOT / "docs" / "dependencies.md").read_text()
    pinned = re.findall(r"^([^#=\s]+)==", (_ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pinned) > 100
    for name in pinned:
        assert re.search(rf"^\| {re.escape(name)} \| [^|]{{2,}} \|$", document, re.MULTILINE), name


def test_another_table_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stale = tmp_path / "dependencies.md"
    stale.write_text((_ROOT / "docs" / "dependencies.md").read_text().replace("MPL-2.0", "MIT"))
    monkeypatch.setattr(licences, "_DOCUMENT", stale)
    monkeypatch.setattr(licences, "_ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["licences", "--check"])
    with pytest.raises(SystemExit, match="stale"):
        licences.main()
    monkeypatch.setattr("sys.argv", ["licences"])
    licences.main()
    assert "MPL-2.0" in stale.read_text()
