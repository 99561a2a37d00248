"""Entry point: ``python -m cli`` is the same as ``magface``."""

from cli.main import app

app(prog_name="magface")
