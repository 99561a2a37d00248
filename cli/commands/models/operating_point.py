"""``magface models operating-point`` and ``curve``: the false-match rate, and what it costs."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import Group, RenderableType

from cli.clients import CALL_TIMEOUT_S, DirOption, collect_pages, new_key, trainer
from cli.commands.models.rollout import WaitOption, wait_for_rollout
from cli.commands.options import ByOption, user_name
from cli.output import JsonOption, emit, facts, short_time, table, to_plain
from shared.errors import NotFound

_SHOWN_HISTORY: Final = 20
_PAGE: Final = 100
_OWN_THRESHOLD: Final = "none: each version's own threshold, equal error weights"


def operating_point(
    *,
    fmr: Annotated[
        float | None,
        typer.Option(
            "--fmr",
            min=1e-6,
            max=0.1,
            help="False-match rate that every serving version must keep, for instance 1e-3.",
        ),
    ] = None,
    unset: Annotated[
        bool,
        typer.Option(
            "--unset", help="Serve each version at its own threshold: equal error weights."
        ),
    ] = False,
    prior: Annotated[
        float, typer.Option(help="Prior probability that a verified pair is genuine.")
    ] = 0.5,
    reason: Annotated[str, typer.Option("--reason", help="Recorded in the history.")] = "",
    wait: WaitOption = False,
    by: ByOption = user_name(),
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the false-match rate that is served; without options, show it and its history."""
    if fmr is not None and unset:
        raise typer.BadParameter("give either --fmr or --unset")
    with trainer(folder) as stub:
        if fmr is None and not unset:
            result = _history(stub)
            emit(as_json, result, _history_table(result))
            return
        if not reason:
            raise typer.BadParameter("--reason is needed, for the history")
        request = trainer_pb2.SetOperatingPointRequest(
            target_fmr=fmr, prior=prior, requested_by=by, reason=reason, idempotency_key=new_key()
        )
        answer = stub.SetOperatingPoint(request, timeout=CALL_TIMEOUT_S)
        result = to_plain(answer)
        if wait and answer.serving_generation:
            replicas = wait_for_rollout(stub, answer.serving_generation)["replicas"]
            result |= {"replicas": replicas}
    target = result["operating_point"]["target_fmr"]
    shown = {"target FMR": _target(target), "generation": result["serving_generation"]}
    emit(as_json, result, facts(shown | kept_facts(result["serving"], target)))


def curve(
    model_version: Annotated[str, typer.Argument(show_default=False)],
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the thresholds and error rates of a version by false-match rate."""
    with trainer(folder) as stub:
        model = to_plain(_find(stub, model_version))
    emit(as_json, model, curve_table(model))


def kept_facts(kept: dict[str, Any] | None, target: float | None) -> dict[str, object]:
    """Rows of `facts` on what the serving version does at a target."""
    if kept is None:
        return {"serving": "no version serves yet"}
    shown: dict[str, object] = {
        "serving": kept["model_version"],
        "threshold": f"{kept['threshold']:.4f}",
    }
    if target is None:
        return shown
    if kept["kept_fmr"] is None:
        return shown | {"warning": "its error rates were not measured, so no FMR is kept"}
    shown |= {"kept FMR": f"{kept['kept_fmr']:g}", "FNMR": rate_text(kept["fnmr"])}
    if kept["missing_people"]:
        shown["warning"] = (
            f"FMR {target:g} is not resolved: too few impostor pairs were measured. About "
            f"{kept['missing_people']} more people with reference faces or labels are needed; "
            f"until a version is measured on them, FMR {kept['kept_fmr']:g} is kept"
        )
    return shown


def rate_text(rate: dict[str, Any]) -> str:
    """An error rate with its interval."""
    return f"{rate['value']:.2%} ({rate['low']:.2%} to {rate['high']:.2%})"


def curve_table(model: dict[str, Any]) -> RenderableType:
    """Shows the operating curve of a version."""
    measured = model["operating_curve"]
    if measured is None:
        return facts({model["model_version"]: "its error rates were not measured"})
    rows = [
        [
            f"{point['target']:g}",
            f"{point['threshold']:.4f}",
            rate_text(point["fnmr"]),
            "{value:.2g} ({low:.2g} to {high:.2g})".format(**point["fmr"]),
        ]
        for point in measured["points"]
        if point["target"] <= 0.1
    ]
    behind = {
        "version": model["model_version"],
        "impostor pairs": _evidence(measured["impostor"]),
        "genuine pairs": _evidence(measured["genuine"]),
    }
    if model["reference"]:
        behind["reference"] = model["reference"]
    columns = ("FMR kept", "threshold", "FNMR (95 % interval)", "FMR measured")
    return Group(facts(behind), table(*columns, rows=rows))


def _evidence(evidence: dict[str, Any]) -> str:
    return f"{evidence['pairs']} of {evidence['people']} people"


def _history(stub: TrainerServiceStub) -> dict[str, Any]:
    serving: trainer_pb2.KeptOperatingPoint | None = None

    def fetch(size: int, token: str) -> tuple[Sequence[trainer_pb2.OperatingPoint], str]:
        nonlocal serving
        request = trainer_pb2.ListOperatingPointsRequest(page_size=size, page_token=token)
        page = stub.ListOperatingPoints(request, timeout=CALL_TIMEOUT_S)
        serving = page.serving if page.HasField("serving") else None
        return page.operating_points, page.next_page_token

    points = collect_pages(fetch, _SHOWN_HISTORY)
    return {
        "operating_points": [to_plain(point) for point in points],
        "serving": to_plain(serving) if serving else None,
    }


def _history_table(result: dict[str, Any]) -> RenderableType:
    points = result["operating_points"]
    target = points[0]["target_fmr"] if points else None
    rows = [
        [
            short_time(point["at"]),
            "none" if point["target_fmr"] is None else f"{point['target_fmr']:g}",
            f"{point['prior']:g}",
            point["serving_generation"],
            point["requested_by"],
            point["reason"],
        ]
        for point in points
    ]
    shown = facts({"target FMR": _target(target)} | kept_facts(result["serving"], target))
    if not rows:
        return shown
    columns = ("set", "target FMR", "prior", "generation", "by", "reason")
    return Group(shown, table(*columns, rows=rows, text=["reason"]))


def _target(target: float | None) -> str:
    return _OWN_THRESHOLD if target is None else f"{target:g}"


def _find(stub: TrainerServiceStub, model_version: str) -> trainer_pb2.ModelVersion:
    token = ""
    while True:
        request = trainer_pb2.ListModelsRequest(page_size=_PAGE, page_token=token)
        page = stub.ListModels(request, timeout=CALL_TIMEOUT_S)
        for model in page.models:
            if model.model_version == model_version:
                return model
        token = page.next_page_token
        if not token:
            raise NotFound(f"there is no model version {model_version}; see `magface models list`")
