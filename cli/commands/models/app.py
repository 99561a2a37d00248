"""``magface models``: its subcommands."""

import typer

from cli.commands.models import (
    evaluations,
    history,
    judgement,
    operating_point,
    quantization,
    rollout,
    versions,
)

app = typer.Typer(no_args_is_help=True, help="Model versions, and which of them serves.")
app.command("list")(versions.list_models)
app.command("import")(versions.import_model)
app.command("promote")(versions.promote)
app.command("rollback")(versions.rollback)
app.command("history")(history.show_history)
app.command("shadow")(versions.shadow)
app.command("rollout")(rollout.show_rollout)
app.command("operating-point")(operating_point.operating_point)
app.command("curve")(operating_point.curve)
app.command("evaluate")(evaluations.evaluate_model)
app.command("evaluations")(evaluations.list_evaluations)
app.command("report")(evaluations.fetch_report)
app.command("judge")(judgement.judge_model)
app.command("quantize")(quantization.quantize_model)
