"""People of the demo: for feedback, for validation, for the test, and as reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path

from cli.commands.evaluation.pair_crops import pair_crops
from cli.images import AlignmentChoice, report_left_out
from cli.rendering.renderer import write_people
from shared.datasets.folder import read_identities, split_identities
from shared.datasets.pairs import PairSet
from shared.datasets.sampling import SampleSize, sample_splits
from shared.errors import InvalidInput

_RENDERED_PEOPLE = 400
_RENDERED_IMAGES = 6
# Share of the people and most pairs, for each set.
_SPLITS = {"feedback": (0.55, 1000), "validation": (0.15, 600), "test": (0.3, 1000)}
# Share of a folder's people who are the trainer's reference faces, if these are enough people.
_REFERENCE_SHARE, _LEAST_REFERENCE = 0.15, 20
# So that the training is not refused, the people of the feedback are 30: 20 to learn from and for
# validation, and others with 30 genuine pairs, of which at most 10 of one person count.
_FEWEST_PEOPLE, _NOT_HELD_OUT, _HELD_OUT_PAIRS, _PAIRS_PER_PERSON = 55, 20, 30, 10


@dataclass(frozen=True)
class DemoPeople:
    """Three sets of pairs and the reference faces; they share no person.

    Attributes:
        reference: Images of each reference person; empty for rendered people, and if the folder
            has too few people.
    """

    feedback: PairSet
    validation: PairSet
    test: PairSet
    reference: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    def write_reference(self, folder: Path) -> Path | None:
        """Link the reference faces into a folder, one subfolder per person; None if none are."""
        for number, images in enumerate(self.reference.values()):
            person = folder / f"{number:04}"
            person.mkdir(parents=True)
            for place, image in enumerate(images):
                (person / f"{place:04}{image.suffix}").symlink_to(image.absolute())
        return folder if self.reference else None


def rendered_people(folder: Path, seed: int) -> DemoPeople:
    """Render people into a folder and split them."""
    write_people(folder, _RENDERED_PEOPLE, _RENDERED_IMAGES, seed)
    return _split(read_identities(folder).images, seed)


def people_of_folder(folder: Path, seed: int) -> DemoPeople:
    """Split the people of a folder of aligned faces, which has a folder per identity.

    Images that cannot be used are named on stderr and left out.

    Raises:
        InvalidInput: There are too few people.
    """
    found = read_identities(folder)
    report_left_out(found.unusable)
    reference = reference_people(found.images, seed)
    rest = {name: files for name, files in found.images.items() if name not in reference}
    people = _split(rest, seed)
    sets = (people.feedback, people.validation, people.test)
    feedback, validation, test = map(_usable, sets)
    return DemoPeople(feedback, validation, test, reference)


def reference_people(identities: Mapping[str, list[Path]], seed: int) -> dict[str, list[Path]]:
    """Choose the people who are the reference faces; none if there are too few.

    Args:
        identities: Images of each person.
        seed: Seed of the choice.
    """
    several = {name: files for name, files in identities.items() if len(files) > 1}
    count = int(_REFERENCE_SHARE * len(several))
    if count < _LEAST_REFERENCE:
        return {}
    chosen = split_identities(several, {"reference": count}, seed)["reference"]
    return {name: several[name] for name in chosen}


def _usable(pair_set: PairSet) -> PairSet:
    """Leave out the images that cannot be decoded."""
    crops = pair_crops(pair_set, AlignmentChoice.ALIGNED)
    unusable = {}
    for image in range(len(pair_set.images)):
        try:
            crops(image)
        except InvalidInput as error:
            unusable[image] = error
    report_left_out(list(unusable.values()))
    return pair_set.without(unusable)[0]


def _split(identities: Mapping[str, Sequence[Path]], seed: int) -> DemoPeople:
    genuine = sorted(comb(len(images), 2) for images in identities.values() if len(images) > 1)
    if len(genuine) < _FEWEST_PEOPLE:
        raise InvalidInput(
            "faces",
            f"{len(genuine)} people have two images or more; {_FEWEST_PEOPLE} are needed",
        )
    learned_from = int(_SPLITS["feedback"][0] * len(genuine))
    held_out = genuine[_NOT_HELD_OUT:learned_from]
    if sum(min(pairs, _PAIRS_PER_PERSON) for pairs in held_out) < _HELD_OUT_PAIRS:
        raise InvalidInput(
            "faces",
            f"{len(genuine)} people have two images or more, but too few to judge a training on: "
            "add people, or third images of these",
        )
    sizes = {}
    for split, (share, pairs) in _SPLITS.items():
        people = int(share * len(genuine))
        # A lower bound of the genuine pairs, whichever people are in the split.
        sizes[split] = SampleSize(min(pairs, 2 * sum(genuine[:people])), people)
    sets = sample_splits(identities, sizes, seed)
    return DemoPeople(sets["feedback"], sets["validation"], sets["test"])
