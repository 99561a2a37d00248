"""``magface doctor``: what is wrong with a running system, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, get_args

import typer
from magface.v1 import feedback_pb2, trainer_pb2

from cli.clients import CALL_TIMEOUT_S, DirOption, Service, feedback, service_address, trainer
from cli.output import JsonOption, emit, table
from shared.errors import MagFaceError, with_details

_HEALTH_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        check: What was looked at.
        problem: What is wrong; empty if nothing is.
        advice: What to do; empty if nothing is wrong.
    """

    check: str
    problem: str = ""
    advice: str = ""


def doctor(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Check a running system: services, stored images, held erasures, rollout.

    Exits with 1 if anything is wrong.
    """
    findings = list(_examine(folder))
    rows = [[one.check, "problem" if one.problem else "ok", _in_words(one)] for one in findings]
    shown = table("check", "state", "what", rows=rows, text=["what"])
    emit(as_json, {"findings": [asdict(one) for one in findings]}, shown)
    if any(one.problem for one in findings):
        raise typer.Exit(1)


def _examine(folder: Path | None) -> Iterator[Finding]:
    for service in get_args(Service):
        finding = _service(service, folder)
        yield finding
        for check, examine in _CHECKS.get(service, {}).items():
            if finding.problem:
                yield Finding(check, f"is not known: the {service} is needed", finding.advice)
            else:
                yield _finding(check, examine, folder)


def _finding(check: str, examine: "_Examine", folder: Path | None) -> Finding:
    try:
        return Finding(check, *examine(folder))
    except MagFaceError as error:
        return Finding(check, f"is not known: {with_details(error)}", "see the log of the service")


def _service(service: Service, folder: Path | None) -> Finding:
    from shared.rpc.access.transport import sync_channel
    from shared.rpc.health import answers, is_serving
    from shared.settings import ClientSettings

    try:
        address = service_address(service, folder)
    except MagFaceError as error:
        return Finding(service, "has no address", str(error))
    connect = partial(sync_channel, access=ClientSettings())
    if not answers(address, _HEALTH_TIMEOUT_S, connect):
        return Finding(
            service,
            f"does not answer at {address}",
            "start it, or see its log; check the address and MAGFACE_TLS_CA",
        )
    if not is_serving(address, _HEALTH_TIMEOUT_S, connect):
        return Finding(
            service,
            f"answers at {address} and is not ready",
            "see its log: it waits for its database, object store or first model",
        )
    return Finding(service)


def _stored_images(folder: Path | None) -> tuple[str, str]:
    with feedback(folder) as stub:
        stats = stub.GetStats(feedback_pb2.GetStatsRequest(), timeout=CALL_TIMEOUT_S)
    if not stats.damaged_images:
        return "", ""
    return (
        f"{stats.damaged_images} of {stats.images} are missing or damaged in the object store",
        "send them again, or restore the bucket; the log of the feedback service names them",
    )


def _held_erasures(folder: Path | None) -> tuple[str, str]:
    with feedback(folder) as stub:
        request = feedback_pb2.ListHeldErasuresRequest()
        held = stub.ListHeldErasures(request, timeout=CALL_TIMEOUT_S).erasures
    waiting = [one for one in held if not one.approved_by]
    if not waiting:
        return "", ""
    return (
        ", ".join(f"{one.rule} would erase {one.images} images" for one in waiting)
        + ": more than a day's share",
        "see `magface feedback held-erasures`; approve it, or check the clock of Postgres, the "
        "settings and the database",
    )


def _rollout(folder: Path | None) -> tuple[str, str]:
    with trainer(folder) as stub:
        rollout = stub.GetRollout(trainer_pb2.GetRolloutRequest(), timeout=CALL_TIMEOUT_S)
    if rollout.complete:
        return "", ""
    if not rollout.model_version:
        return "no version was promoted", "`magface models list`, then `magface models promote`"
    if not rollout.replicas:
        return "no embedder has reported lately", "start one, or check that it reaches the store"
    behind = [one for one in rollout.replicas if one.generation != rollout.serving_generation]
    errors = [f"{one.instance}: {one.swap_error}" for one in behind if one.swap_error]
    return (
        f"{len(behind)} of {len(rollout.replicas)} embedders do not serve {rollout.model_version}"
        + "".join(f"; {error}" for error in errors),
        "wait a moment; if it stays, see `magface models rollout`, or roll back",
    )


_Examine = Callable[[Path | None], tuple[str, str]]
# By the service that they need.
_CHECKS: Final[dict[str, dict[str, _Examine]]] = {
    "feedback": {"stored images": _stored_images, "held erasures": _held_erasures},
    "trainer": {"rollout": _rollout},
}


def _in_words(finding: Finding) -> str:
    return f"{finding.problem}. To do: {finding.advice}" if finding.problem else ""
