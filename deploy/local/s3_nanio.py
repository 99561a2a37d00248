"""The S3 server of the embedded stack: nanio, on a folder."""

import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from deploy.local.child_process import ChildProcess, Command
from deploy.local.state_files import PortBook, kept_secret
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


class S3Server(ChildProcess):
    """Base of local S3 servers: random credentials, ready once an object has been stored.

    Args:
        name: For messages.
        folder: Data, credentials and ports; created when absent.
    """

    def __init__(self, name: str, folder: Path, log_file: Path | None, stop_grace_s: float) -> None:
        super().__init__(name, log_file or folder / "server.log", stop_grace_s=stop_grace_s)
        self._folder = folder.absolute()
        self._ports = PortBook(self._folder / "ports.json")
        self._port = 0

    def settings(self) -> ObjectStoreSettings:
        """Gives the settings of a client; valid once the server has been started."""
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
    """The server of the package ``nanio``: pure Python; each object is synced to disk.

    Args:
        folder: Data, credentials and port; created when absent.
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
