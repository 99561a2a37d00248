"""Groups of the people of an evaluation."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cli.output import messages
from shared.datasets.groups import GROUPS_FILE, read_groups
from shared.datasets.pairs import PairSet
from shared.errors import InvalidInput
from shared.evaluation.groups import measure_groups, pairs_within_groups
from shared.evaluation.measure import Measurement


def read_people_groups(
    pairs: Path, groups_file: Path | None, people: Collection[str]
) -> dict[str, str]:
    """Reads the group of each person; rows of other people are named on stderr.

    Args:
        pairs: Folder of people or pair file that is evaluated.
        groups_file: The groups; None for the ``groups.csv`` of the folder.
        people: The people on the images of the pairs; empty if they are not known.

    Raises:
        InvalidInput: There is no such file, it cannot be read, or nobody is in a group.
    """
    if groups_file is None and not pairs.is_dir():
        raise InvalidInput("--groups", f"needs a folder of people; for {pairs}, use --groups-file")
    if not people:
        raise InvalidInput(
            str(pairs), "does not name the person on each image, so it cannot be divided by group"
        )
    path = groups_file or pairs / GROUPS_FILE
    found = read_groups(path, people)
    for ignored in found.unusable:
        messages.print(f"ignored: {ignored}", markup=False, highlight=False)
    if not found.groups:
        raise InvalidInput(str(path), "puts none of these people into a group")
    return found.groups


def with_groups(
    measured: Measurement, pair_set: PairSet, groups: Mapping[str, str], seed: int
) -> Measurement:
    """Adds the error rates of each group, on all pairs of the set's images within the group.

    Args:
        measured: Measurement on the set.
        pair_set: Names the person on each image.
        groups: Group by person.
        seed: Seed of the choice of pairs and of the bootstrap.
    """
    identities = np.array(pair_set.identities)
    _, people = np.unique(identities, return_inverse=True)
    names = np.array([groups.get(identity, "") for identity in identities])
    images_of = {name: np.flatnonzero(names == name) for name in set(groups.values())}
    pairs = pairs_within_groups(people, images_of, seed)
    threshold = measured.evaluation.threshold
    return replace(
        measured, groups=measure_groups(pairs, measured.embedded.embeddings, threshold, seed)
    )
