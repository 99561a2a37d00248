"""``python -m cli`` is ``magface``."""

from cli.main import app

app(prog_name="magface")
