"""``magface dataset``: makes pairs and pictures to work with."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, emit, facts

app = typer.Typer(no_args_is_help=True, help="Make labelled pairs, or pictures of made-up people.")

SeedOption = Annotated[int, typer.Option(help="The same seed gives the same result.")]


@app.command()
def pairs(
    *,
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="A folder per identity.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="JSON file to write.", show_default=False)
    ],
    identities: Annotated[int, typer.Option(min=2, help="People to choose.")] = 10,
    images: Annotated[int, typer.Option(min=2, help="Images of each, at most.")] = 5,
    count: Annotated[int, typer.Option("--pairs", min=2, help="Half of them genuine.")] = 200,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose genuine and impostor pairs among the people of a folder."""
    from shared.datasets.folder import read_identities
    from shared.datasets.pairs_json import write_pairs_json
    from shared.datasets.sampling import SampleSize, sample_pairs

    size = SampleSize(pairs=count, identities=identities, images=images)
    chosen = sample_pairs(read_identities(folder), size, seed)
    write_pairs_json(chosen, out)
    result = {
        "file": str(out),
        "pairs": len(chosen),
        "genuine": int(chosen.labels.sum()),
        "impostor": int((~chosen.labels).sum()),
        "images": len(chosen.images),
        "identities": len(set(chosen.identities or ())),
    }
    emit(as_json, result, facts(result))


@app.command()
def render(
    folder: Annotated[
        Path, typer.Argument(file_okay=False, help="Made when absent.", show_default=False)
    ],
    people: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Pictures of each.")] = 6,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw made-up people, 112x112, a folder per identity."""
    from shared.datasets.render import write_people

    write_people(folder, people, images, seed)
    result = {"folder": str(folder), "people": people, "images": people * images, "seed": seed}
    emit(as_json, result, facts(result))
