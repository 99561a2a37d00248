"""``magface dataset``: pair sets from folders of faces, and rendered people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from cli.commands.options import ChannelOrderChoice
from cli.images import report_left_out
from cli.output import JsonOption, emit, facts, table

if TYPE_CHECKING:
    from shared.datasets.pairs import PairSet
    from shared.datasets.sampling import HardPairs, SampleSize

app = typer.Typer(
    no_args_is_help=True, help="Make sets of labelled pairs, or images of rendered people."
)

FacesArgument = Annotated[
    Path,
    typer.Argument(
        exists=True,
        file_okay=False,
        help="Folder with a folder of images per identity. Folders in it count, also by links; "
        "hidden files and folders do not.",
        show_default=False,
    ),
]
ImagesOption = Annotated[int, typer.Option(min=2, help="Most images of each person.")]
HardOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of pairs that are hardest for a model.")
]
HardestForOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", exists=True, dir_okay=False, help="Model for --hard; default: bundled."
    ),
]
ChannelOrderOption = Annotated[
    ChannelOrderChoice, typer.Option(help="Channel order of the --checkpoint.")
]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same result.")]


@app.command()
def pairs(
    *,
    folder: FacesArgument,
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="JSON file to write.", show_default=False)
    ],
    identities: Annotated[int, typer.Option(min=2, help="Number of people to choose.")] = 10,
    images: ImagesOption = 5,
    count: Annotated[
        int, typer.Option("--pairs", min=2, help="Number of pairs, half of them genuine.")
    ] = 200,
    hard: HardOption = 0.0,
    checkpoint: HardestForOption = None,
    channel_order: ChannelOrderOption = ChannelOrderChoice.BGR,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose genuine and impostor pairs from a folder of people."""
    from shared.datasets.folder import read_identities
    from shared.datasets.pairs_json import write_pairs_json
    from shared.datasets.sampling import SampleSize, sample_pairs

    size = SampleSize(pairs=count, identities=identities, images=images)
    wish = _wish(hard, checkpoint, channel_order)
    found = read_identities(folder)
    left_out = report_left_out(found.unusable)
    chosen = sample_pairs(found.images, size, seed, wish)
    write_pairs_json(chosen, out)
    result = {"file": str(out), **_counts(chosen)}
    emit(as_json, {**result, "left_out": left_out}, facts(result))


@app.command()
def splits(
    *,
    folder: FacesArgument,
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False, help="Folder for NAME.json of each split.", show_default=False
        ),
    ],
    split: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=PEOPLE:PAIRS",
            help="Repeat it for each split, for instance train=200:1000.",
            show_default=False,
        ),
    ],
    images: ImagesOption = 5,
    hard: HardOption = 0.0,
    checkpoint: HardestForOption = None,
    channel_order: ChannelOrderOption = ChannelOrderChoice.BGR,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose several sets of pairs that share no person."""
    from shared.datasets.folder import read_identities
    from shared.datasets.pairs_json import write_pairs_json
    from shared.datasets.sampling import sample_splits

    sizes = dict(_read_split(text, images) for text in split)
    if len(sizes) != len(split):
        raise typer.BadParameter("the names must differ", param_hint="--split")
    wish = _wish(hard, checkpoint, channel_order)
    found = read_identities(folder)
    left_out = report_left_out(found.unusable)
    chosen = sample_splits(found.images, sizes, seed, wish)
    for name, pair_set in chosen.items():
        write_pairs_json(pair_set, out / f"{name}.json")
    made = [
        {"split": name, "file": str(out / f"{name}.json"), **_counts(pair_set)}
        for name, pair_set in chosen.items()
    ]
    emit(as_json, {"splits": made, "left_out": left_out}, splits_table(made))


def splits_table(splits: Sequence[Mapping[str, object]]) -> RenderableType:
    """Table of the sets of pairs, with a column for each of their fields."""
    return table(*splits[0], rows=[list(row.values()) for row in splits])


@app.command()
def render(
    folder: Annotated[
        Path,
        typer.Argument(
            file_okay=False, help="Folder to write; created when absent.", show_default=False
        ),
    ],
    people: Annotated[int, typer.Option(min=1, help="Number of people.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Images of each person.")] = 6,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Render images of artificial people, 112x112, a folder per identity.

    groups.csv in the folder has each person's skin tone.
    """
    from cli.rendering.renderer import groups_of_people, write_people
    from shared.datasets.groups import GROUPS_FILE, write_groups

    write_people(folder, people, images, seed)
    write_groups(folder / GROUPS_FILE, groups_of_people(people, seed))
    result = {"folder": str(folder), "people": people, "images": people * images, "seed": seed}
    emit(as_json, result, facts(result))


def _wish(share: float, checkpoint: Path | None, order: ChannelOrderChoice) -> "HardPairs | None":
    if not share:
        return None
    from cli.commands.evaluation.hard_pairs import hard_pairs

    return hard_pairs(share, checkpoint, order.value)


def _read_split(text: str, images: int) -> "tuple[str, SampleSize]":
    from shared.datasets.sampling import SampleSize

    name, _, numbers = text.partition("=")
    people, _, count = numbers.partition(":")
    if not (name.isidentifier() and people.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not NAME=PEOPLE:PAIRS", param_hint="--split")
    return name, SampleSize(pairs=int(count), identities=int(people), images=images)


def _counts(chosen: "PairSet") -> dict[str, Any]:
    return {
        "pairs": len(chosen),
        "genuine": int(chosen.labels.sum()),
        "impostor": int((~chosen.labels).sum()),
        "images": len(chosen.images),
        "identities": len(set(chosen.identities or ())),
    }
