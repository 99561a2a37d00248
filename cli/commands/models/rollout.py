"""``magface models rollout``, and the wait until every embedder serves a version."""

import time
from typing import Annotated, Any, Final

import typer
from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import Group, RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, trainer
from cli.output import JsonOption, emit, facts, table, to_plain
from shared.errors import Conflict, Unavailable

_POLL_S: Final = 0.3
_TIMEOUT_S: Final = 120.0

WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until every live embedder serves it.")
]


def show_rollout(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Show the live embedders, the version that each serves, and the shadow evaluation."""
    with trainer(folder) as stub:
        plain = to_plain(_rollout(stub))
    emit(as_json, plain, rollout_table(plain))


def rollout_table(plain: dict[str, Any]) -> RenderableType:
    """Shows what each embedder serves, and the figures of the shadowed version."""
    rows = [_row(plain, replica) for replica in plain["replicas"]]
    title = f"{plain['model_version']}, generation {plain['serving_generation']}"
    columns = ("embedder", "model_version", "", "error")
    replicas = table(*columns, rows=rows, title=title, text=["error"])
    return Group(replicas, facts(_shadow_facts(plain["shadow"])))


def wait_for_rollout(stub: TrainerServiceStub, generation: int) -> dict[str, Any]:
    """Waits until every live embedder serves the version of a generation.

    Raises:
        Conflict: Another promotion or rollback replaced it.
        Unavailable: Some do not serve it after two minutes; the message has their errors.
    """
    until = time.monotonic() + _TIMEOUT_S
    while True:
        rollout = _rollout(stub)
        if rollout.serving_generation != generation:
            raise Conflict(
                f"generation {generation} was replaced by generation "
                f"{rollout.serving_generation} ({rollout.model_version}) during its rollout"
            )
        if rollout.complete:
            return to_plain(rollout)
        if time.monotonic() > until:
            raise Unavailable(f"after {_TIMEOUT_S:g} s {_missing(rollout)}")
        time.sleep(_POLL_S)


def _rollout(stub: TrainerServiceStub) -> trainer_pb2.GetRolloutResponse:
    return stub.GetRollout(trainer_pb2.GetRolloutRequest(), timeout=CALL_TIMEOUT_S)


def _missing(rollout: trainer_pb2.GetRolloutResponse) -> str:
    outdated = [each for each in rollout.replicas if each.generation != rollout.serving_generation]
    if not outdated:
        return "there is no live embedder"
    states = (
        f"{each.instance} serves {each.model_version}: {each.swap_error}" for each in outdated
    )
    return f"{len(outdated)} embedders do not serve {rollout.model_version}: " + "; ".join(states)


def _shadow_facts(shadow: dict[str, Any] | None) -> dict[str, object]:
    if shadow is None:
        return {}
    shown = {"shadow version": shadow["model_version"], "pairs": shadow["pairs"]}
    if shadow["pairs"]:
        shown["agreement"] = f"{shadow['agreement']:.1%}"
        shown["similarity shift"] = f"{shadow['similarity_shift']:+.3f}"
    if shadow["error"]:
        shown["error"] = shadow["error"]
    return shown


def _row(plain: dict[str, Any], replica: dict[str, Any]) -> list[object]:
    current = replica["generation"] == plain["serving_generation"]
    state = "up to date" if current else "outdated"
    return [replica["instance"], replica["model_version"], state, replica["swap_error"]]
