"""Fixtures: the Python client on a stack of real services."""

from collections.abc import Iterator

import pytest
from magface_client import Access, Client

from deploy.local.endpoints import Endpoints
from tests.cli.conftest import endpoints, people, pictures

__all__ = ["client", "endpoints", "people", "pictures"]


@pytest.fixture
def client(endpoints: Endpoints) -> Iterator[Client]:
    addresses = {name: getattr(endpoints, name) for name in ("embedder", "feedback", "trainer")}
    with Client(**addresses, access=Access()) as client:
        yield client
