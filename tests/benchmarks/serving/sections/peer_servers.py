"""Comparison with other model servers that serve the same network."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from deploy.local.state_files import PortBook
from shared.errors import Unavailable
from shared.model.manifest import ONNX_FILE
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of, run_load
from tests.benchmarks.serving.plan import CALLERS, Plan
from tests.benchmarks.serving.servers.embedder import running_embedder
from tests.benchmarks.serving.servers.process import OtherServer, paused, running
from tests.benchmarks.serving.servers.versions import BenchVersions

_PEERS_PACKAGE = "tests.benchmarks.serving.peers"


@dataclass(frozen=True)
class Peer:
    """Another model server.

    Attributes:
        packages: Packages to install; the first one is the server's. onnxruntime, OpenCV and numpy
            are always installed.
        kind: See `Address`.
        path: See `Address`.
        program: Arguments of its virtual environment's Python; ``PORT`` stands for the port.
        note: A remark about its figures.
        python: The interpreter that its virtual environment is made with.
    """

    packages: tuple[str, ...]
    kind: str
    path: str
    program: tuple[str, ...]
    note: str = ""
    python: str = sys.executable


PEERS = {
    "fastapi": Peer(
        ("fastapi", "uvicorn[standard]"),
        "http",
        "/embed",
        ("-m", f"{_PEERS_PACKAGE}.fastapi"),
        "has no batching",
    ),
    "litserve": Peer(("litserve",), "json", "/embed", ("-m", f"{_PEERS_PACKAGE}.litserve")),
    "bentoml": Peer(
        ("bentoml",),
        "http",
        "/embed",
        ("-m", "bentoml", "serve", f"{_PEERS_PACKAGE}.bentoml:Faces", "--port", "PORT"),
    ),
    "kserve": Peer(
        ("kserve",),
        "kserve",
        "/v2/models/faces/infer",
        ("-m", f"{_PEERS_PACKAGE}.kserve"),
        "its batcher is not part of the Python server",
    ),
    "pytriton": Peer(
        ("nvidia-pytriton",),
        "triton",
        "/v2/models/faces/infer",
        ("-m", f"{_PEERS_PACKAGE}.pytriton"),
        # Its server embeds the system's libpython, so the standard library must match that.
        python="/usr/bin/python3",
    ),
}


def peers(plan: Plan, folder: Path, versions: BenchVersions, homes: Path) -> Figures:
    """Calls per second of our server over each other one, with both networks.

    Args:
        plan: Durations and rounds.
        folder: For ports, logs and stores.
        versions: The almost-free network and iResNet-18.
        homes: Folder of the virtual environments, which later runs reuse.
    """
    networks = {"almost_free": versions.almost_free(), "iresnet18": versions.iresnet18()}
    seconds = {"almost_free": plan.fast_s, "iresnet18": plan.slow_s}
    found: Figures = {}
    for name, peer in _selected_peers().items():
        try:
            python = install(name, peer, homes / name, plan.install_s)
        except (subprocess.SubprocessError, OSError) as error:
            found[name] = {"reason": f"could not be installed: {_reason(error)}"}
            continue
        found[name] = {"installed": _installed(python, peer), "note": peer.note}
        for network, version_folder in networks.items():
            server = _server(name, python, version_folder, folder / name / network)
            server.ready_timeout_s = plan.install_s
            found[name][network] = _compare(server, version_folder, plan, seconds[network])
    return found


def _selected_peers() -> dict[str, Peer]:
    names = [name for name in os.environ.get("PEERS", "").split(",") if name]
    if unknown := sorted(set(names) - set(PEERS)):
        sys.exit(f"unknown server: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    return {name: peer for name, peer in PEERS.items() if not names or name in names}


def _compare(peer: OtherServer, network: Path, plan: Plan, seconds: float) -> Figures:
    window = plan.warm_s + seconds
    faults: Counter[str] = Counter()
    client_us: dict[str, float] = {}

    def measure(address: Address) -> float:
        seen = run_load(address, window)
        client_us[address.kind] = 1e6 * seen.cpu_s / sum(seen.codes.values())
        faults.update({code: count for code, count in seen.codes.items() if code != "OK"})
        return seen.calls_per_second(plan.warm_s)

    def measure_ours(address: Address) -> float:
        with paused(peer):
            return measure(address)

    with running_embedder(peer.folder, [network]) as embedder:
        try:
            with running(peer):
                alternatives = {
                    "ours": lambda: measure_ours(Address("grpc", embedder.address)),
                    "theirs": lambda: measure(peer.address),
                }
                raw = alternate(alternatives, plan.rounds, f"{peer.name}, {network.name}")
        except (Unavailable, RuntimeError) as error:
            return {"reason": str(error)}
    return ratio_of(raw, "ours", "theirs") | {
        "unit": "calls/s",
        "callers": CALLERS,
        "their_faults": dict(faults),
        "client_cpu_us_a_call": client_us,
    }


def _server(name: str, python: Path, network: Path, folder: Path) -> OtherServer:
    folder.mkdir(parents=True)
    peer, port = PEERS[name], PortBook(folder / "ports.json").take(name)
    address = Address(peer.kind, f"127.0.0.1:{port}", peer.path)
    program = [each.replace("PORT", str(port)) for each in peer.program]
    environment = {
        "PEER_PORT": str(port),
        "PEER_NETWORK": str((network / ONNX_FILE).absolute()),
        "PEER_THREADS": str(cpu_threads()),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder),
    }
    return OtherServer(address, [str(python), *program], environment, folder)


def install(name: str, peer: Peer, home: Path, seconds: float) -> Path:
    """Create the server's own virtual environment, unless an earlier run did.

    Args:
        name: Of the server.
        peer: The server.
        home: Folder of the virtual environment.
        seconds: Timeout of each step.

    Returns:
        Path of its Python.

    Raises:
        subprocess.SubprocessError: pip failed or timed out.
    """
    python, done = home.absolute() / "bin" / "python", home / ".installed"
    if done.exists():
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    log(f"installing {name} into {home}")
    subprocess.run(
        [peer.python, "-m", "venv", "--clear", home.absolute()],
        check=True,
        timeout=seconds,
        cwd=home.parent,
    )
    # The same engine version as ours, so that the ratio compares the servers only.
    engine = f"onnxruntime=={version('onnxruntime-gpu')}"
    packages = [*peer.packages, engine, "opencv-python-headless", "numpy"]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
        check=True,
        timeout=seconds,
        capture_output=True,
        text=True,
    )
    done.touch()
    return python


def _installed(python: Path, peer: Peer) -> str:
    code = f"from importlib.metadata import version; print(version({peer.packages[0]!r}))"
    shown = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return f"{peer.packages[0]} {shown.stdout.strip()}"


def _reason(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    return str(text).strip()[-500:]
