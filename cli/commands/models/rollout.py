"""``magface models rollout``, and waiting until every embedder serves a version."""

import time
from typing import Annotated, Any, Final

import typer
from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import Group, RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, trainer
from cli.output import JsonOption, emit, facts, table, to_plain
from shared.errors import Conflict, Unavailable

_LOOK_S: Final = 0.3
_LONGEST_S: Final = 120.0

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
    """Wait until every embedder that lives follows a serving decision.

    Raises:
        Conflict: If another decision takes its place.
        Unavailable: If they do not within two minutes; says which and why.
    """
    until = time.monotonic() + _LONGEST_S
    while True:
        rollout = _rollout(stub)
        if rollout.serving_generation != generation:
            raise Conflict(
                f"generation {rollout.serving_generation} ({rollout.model_version}) was decided "
                f"while embedders still took up generation {generation}"
            )
        if rollout.complete:
            return to_plain(rollout)
        if time.monotonic() > until:
            raise Unavailable(f"after {_LONGEST_S:g} s {_who_lacks(rollout)}")
        time.sleep(_LOOK_S)


def _rollout(stub: TrainerServiceStub) -> trainer_pb2.GetRolloutResponse:
    return stub.GetRollout(trainer_pb2.GetRolloutRequest(), timeout=CALL_TIMEOUT_S)


def _who_lacks(rollout: trainer_pb2.GetRolloutResponse) -> str:
    late = [each for each in rollout.replicas if each.generation != rollout.serving_generation]
    if not late:
        return "no embedder lives"
    said = (f"{each.instance} serves {each.model_version}: {each.swap_error}" for each in late)
    return f"{len(late)} embedders do not serve {rollout.model_version}: " + "; ".join(said)


def _shadow_facts(shadow: dict[str, Any] | None) -> dict[str, object]:
    if shadow is None:
        return {}
    found = {"in the shadow": shadow["model_version"], "pairs": shadow["pairs"]}
    if shadow["pairs"]:
        found["agreement"] = f"{shadow['agreement']:.1%}"
        found["similarity shift"] = f"{shadow['similarity_shift']:+.3f}"
    if shadow["error"]:
        found["error"] = shadow["error"]
    return found


def _row(plain: dict[str, Any], replica: dict[str, Any]) -> list[object]:
    follows = replica["generation"] == plain["serving_generation"]
    verdict = "as decided" if follows else "not yet"
    return [replica["instance"], replica["model_version"], verdict, replica["swap_error"]]
