"""The ``magface`` command."""

from typing import Any

import typer
from typer.core import TyperGroup

from cli import (
    dataset,
    evaluate,
    evaluations,
    faces,
    feedback,
    models,
    pool,
    quantizing,
    rollout,
    training,
    up,
)
from cli.demo import command as demo
from shared.errors import MagFaceError


class _ReadableErrors(TyperGroup):
    """Ends a command that failed foreseeably with one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (MagFaceError, OSError) as error:
            typer.echo(f"magface: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_ReadableErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A face verifier that learns from being corrected.",
)
app.command()(up.up)
app.command()(faces.embed)
app.command()(faces.verify)
feedback.app.command("import-images")(pool.import_images)
feedback.app.command("next")(pool.next_pairs)
feedback.app.command("annotators")(pool.annotators)
app.add_typer(feedback.app, name="feedback")
app.command()(training.train)
app.add_typer(training.jobs, name="jobs")
models.app.command("evaluate")(evaluations.evaluate_model)
models.app.command("evaluations")(evaluations.list_evaluations)
models.app.command("report")(evaluations.fetch_report)
models.app.command("rollout")(rollout.show_rollout)
models.app.command("quantize")(quantizing.quantize_model)
app.add_typer(models.app, name="models")
app.add_typer(dataset.app, name="dataset")
app.command()(evaluate.evaluate)
app.command()(demo.demo)
