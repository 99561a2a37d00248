"""S3 servers on a folder: what they share, and nanio, the small one of the embedded stack."""

import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from deploy.local.files import PortBook, kept_secret
from deploy.local.server import Command, LocalServer
from shared.errors import Unavailable
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore

_BUCKET = "magface"
_PROBE_KEY = "ready"
_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Credentials:
    """An S3 access key and its secret."""

    access_key: str
    secret_key: str


class S3Server(LocalServer):
    """A local S3 server with random credentials, ready once it has stored an object.

    Args:
        name: For messages.
        folder: Data, credentials and ports; made when absent.
    """

    def __init__(self, name: str, folder: Path, log_file: Path | None, stop_grace_s: float) -> None:
        super().__init__(name, log_file or folder / "server.log", stop_grace_s=stop_grace_s)
        self._folder = folder.absolute()
        self._ports = PortBook(self._folder / "ports.json")
        self._port = 0

    def settings(self) -> ObjectStoreSettings:
        """Gives what a client needs to reach it, once it has been started."""
        credentials = self._credentials()
        return ObjectStoreSettings(
            s3_endpoint=f"127.0.0.1:{self._port}",
            s3_access_key=credentials.access_key,
            s3_secret_key=SecretStr(credentials.secret_key),
            s3_bucket=_BUCKET,
            s3_secure=False,
            s3_timeout_s=5.0,
        )

    def _credentials(self) -> Credentials:
        text = kept_secret(
            self._folder / "credentials.json",
            lambda: json.dumps(
                {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
            ),
        )
        return Credentials(**json.loads(text))

    def _answers(self) -> bool:
        store = ObjectStore(self.settings().model_copy(update={"s3_timeout_s": _PROBE_TIMEOUT_S}))
        try:
            store.ensure_bucket()
            store.put(_PROBE_KEY, b"x")
            store.remove(_PROBE_KEY)
        except Unavailable:
            return False
        return True


class NanioServer(S3Server):
    """The ``nanio`` package's server: pure Python, ready at once, every object synced to disk.

    Args:
        folder: Data, credentials and port; made when absent.
    """

    def __init__(self, folder: Path, log_file: Path | None = None) -> None:
        super().__init__("nanio", folder, log_file, stop_grace_s=5.0)

    def _prepare(self) -> Command:
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        credentials = self._credentials()
        self._port = self._ports.take("s3")
        program = [sys.executable, "-P", "-m", "nanio", "serve", "--no-access-log"]
        return Command(
            argv=[*program, "--host=127.0.0.1", f"--port={self._port}", f"--data-dir={data}"],
            cwd=self._folder,
            env={
                "PATH": os.defpath,
                "NANIO_ACCESS_KEY": credentials.access_key,
                "NANIO_SECRET_KEY": credentials.secret_key,
            },
            death_signal=signal.SIGKILL,
        )
