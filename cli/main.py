"""The ``magface`` command: its subcommands and how their errors are shown."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.commands import dataset, doctor, face_list, faces, serve, token, training, up
from cli.commands.evaluation import evaluate
from cli.commands.feedback.app import app as feedback
from cli.commands.models.app import app as models
from cli.demo import command as demo
from cli.output import complain
from shared.errors import MagFaceError, with_details


class _ReadableErrors(TyperGroup):
    """Ends a command that failed with an expected error with one line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (MagFaceError, OSError) as error:
            complain(with_details(error))
            raise typer.Exit(1) from error
        except MemoryError as error:
            complain(f"not enough memory: {error}")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_ReadableErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Boxes around the help would take a quarter of the time of `magface --help`.
    rich_markup_mode=None,
    help="Face verification that learns from corrections.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"magface {version('magface-active-learning')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command()(up.up)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.command()(faces.embed)
app.command()(faces.verify)
app.command()(face_list.faces)
app.add_typer(feedback, name="feedback")
app.command()(training.train)
app.add_typer(training.jobs, name="jobs")
app.add_typer(models, name="models")
app.add_typer(dataset.app, name="dataset")
app.add_typer(token.app, name="token")
app.command()(evaluate.evaluate)
app.command()(demo.demo)
