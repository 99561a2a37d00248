"""Embedders restart one after the other while the Python client calls them."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from magface_client import Access, Client

from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, png
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import wait_until_serving
from tests.support.certificates import Authority, Files
from tests.support.processes import free_port
from tests.support.tokens import Issuer, write_jwks

PICTURES = [png(crop) for crop in crops(4)]


class _Traffic:
    """Calls without a pause, and one stream, until `stop`."""

    def __init__(self, client: Client) -> None:
        self.calls = 0
        self.streamed = 0
        self.errors: list[Exception] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._verify, self._stream)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _verify(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self._client.verify(*PICTURES[:2])
                self.calls += 1
            except Exception as error:
                self.errors.append(error)

    def _stream(self) -> None:
        try:
            for answer in self._client.embed_stream(self._images()):
                assert answer.face is not None, answer.error
                self.streamed += 1
        except Exception as error:
            self.errors.append(error)

    def _images(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        while not self._stop.wait(0.02):
            yield number, PICTURES[number % 4]
            number += 1


@pytest.mark.slow
@pytest.mark.usefixtures("published")
async def test_no_call_of_the_client_fails(embedder_settings, tmp_path):
    """Over mutual TLS with tokens, whose certificates are replaced meanwhile."""
    authority, issuer = Authority(), Issuer()
    service, caller = Files(tmp_path / "service", authority), Files(tmp_path / "me", authority)
    secure = {
        "MAGFACE_TLS_CERTIFICATE": str(service.certificate),
        "MAGFACE_TLS_KEY": str(service.key),
        "MAGFACE_TLS_CLIENT_CA": str(service.ca),
        "MAGFACE_JWKS": str(write_jwks(tmp_path / "jwks", issuer)),
    }
    access = Access(caller.ca, caller.certificate, caller.key, token=issuer.token("client"))

    def run() -> None:
        with ExitStack() as stack:
            processes, each = [], []
            for name in ("one", "other"):
                settings = embedder_settings.model_copy(update={"cache_dir": tmp_path / name})
                address = f"127.0.0.1:{free_port()}"
                process = EmbedderProcess(
                    settings, tmp_path / f"{name}-run", MAGFACE_LISTEN=address, **secure
                )
                processes.append(stack.enter_context(process))
                process.start()
                each.append(stack.enter_context(Client(embedder=address, access=access)))
            for client in each:
                wait_until_serving(client, VERSIONS[0])
            addresses = ",".join(client._channels.addresses["embedder"] for client in each)
            both = stack.enter_context(Client(embedder=f"ipv4:{addresses}", access=access))
            traffic = _Traffic(both)
            try:
                for process, client in zip(processes, each, strict=True):
                    time.sleep(1)
                    for files in (service, caller):
                        files.replace(authority.issue())
                    assert process.stop() == 0
                    process.start()
                    wait_until_serving(client, VERSIONS[0])
                time.sleep(1)
            finally:
                traffic.stop()
            assert traffic.errors == []
            assert traffic.calls > 50
            assert traffic.streamed > 50

    await asyncio.to_thread(run)
