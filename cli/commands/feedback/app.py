"""``magface feedback``: its subcommands."""

import typer

from cli.commands.feedback import erasure, labels, pool, suspects

app = typer.Typer(no_args_is_help=True, help="Labels of face pairs, and the pool of images.")
app.command("submit")(labels.submit)
app.command("import")(labels.import_pairs)
app.command("export")(labels.export)
app.command("stats")(labels.stats)
app.command("list")(labels.list_pairs)
app.command("suspects")(suspects.list_suspects)
app.command("get-image")(labels.fetch_image)
app.command("import-images")(pool.import_images)
app.command("next")(pool.next_pairs)
app.command("annotators")(pool.list_annotators)
app.command("erase-image")(erasure.erase_image)
app.command("erase-subject")(erasure.erase_subject)
app.command("allow-image")(erasure.allow_image)
app.command("held-erasures")(erasure.list_held)
app.command("approve-erasure")(erasure.approve_held)
app.command("audit")(erasure.list_audit)
