"""What an evaluation says, in the form in which it is printed, stored and sent."""

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """95 % bootstrap interval."""

    low: float
    high: float


class Folded(_Frozen):
    """Accuracy over folds, each at the threshold that is best on the others."""

    folds: int
    mean: float
    std: float


class RejectCurve(_Frozen):
    """FNMR at a fixed FMR against the share of genuine pairs rejected by magnitude."""

    fmr: float
    rejected: tuple[float, ...]
    fnmr: tuple[float, ...]


class Mirrored(_Frozen):
    """Figures when the features of the mirror image are added before normalising."""

    best_accuracy: float
    best_threshold: float
    auc: float
    eer: float


class Evaluation(_Frozen):
    """Figures of one model on one set of pairs.

    Attributes:
        threshold: The one that accuracy, precision, recall and the counts are at.
        best_accuracy: None, as are best_threshold, auc and eer, when all pairs are genuine
            or all are impostors.
        tar_at_far: TAR by FAR; None where the impostor pairs are too few to measure it.
        intervals: 95 % bootstrap intervals over identities (over images, where the set
            does not say who is on them) of accuracy, auc, eer, best_accuracy, and TAR as
            ``tar_at_far.0.01``.
        folded: None unless the set has folds.
        mirrored: None unless it was asked for.
        error_versus_reject: None where the impostor pairs cannot support its FMR.
        images_per_second: Of embedding, decoding included.
    """

    images: int
    pairs: int
    genuine_pairs: int
    impostor_pairs: int
    threshold: float
    accuracy: float
    precision: float
    recall: float
    tp: int
    tn: int
    fp: int
    fn: int
    best_accuracy: float | None
    best_threshold: float | None
    auc: float | None
    eer: float | None
    tar_at_far: dict[str, float | None]
    intervals: dict[str, Interval]
    folded: Folded | None
    mirrored: Mirrored | None
    error_versus_reject: RejectCurve | None
    mean_magnitude: float
    images_per_second: float

    def figure(self, name: str) -> float | None:
        """A figure by the name that its interval has, such as ``tar_at_far.0.01``."""
        value: float | None
        if name.startswith("tar_at_far."):
            value = self.tar_at_far[name.removeprefix("tar_at_far.")]
        else:
            value = getattr(self, name)
        return value


class McNemar(_Frozen):
    """McNemar's exact test on paired decisions.

    Attributes:
        fixed: Pairs that the old version had wrong and the new has right.
        broken: Pairs that the old version had right and the new has wrong.
        p_value: Chance of a split at least this uneven, either way, if both were equally good.
    """

    fixed: int
    broken: int
    p_value: float


class Difference(_Frozen):
    """A figure of the new version minus that of the old, with a 95 % paired interval."""

    value: float
    low: float
    high: float


class Comparison(_Frozen):
    """How far two models differ on the same pairs, each at its own threshold.

    Attributes:
        mcnemar: Whether the change of the decisions may be luck.
        differences: Of the figures that have intervals; empty where the set has one class.
        genuine_shift: Mean of new minus old similarity of the genuine pairs; None without any.
        impostor_shift: The same of the impostor pairs.
    """

    mcnemar: McNemar
    differences: dict[str, Difference]
    genuine_shift: float | None
    impostor_shift: float | None


class ChangedPair(_Frozen):
    """A pair that one version decides rightly and the other does not.

    Attributes:
        pair: Its place in the set.
        images: Names of its two images.
    """

    pair: int
    genuine: bool
    images: tuple[str, str]
    old_similarity: float
    similarity: float


class Changes(_Frozen):
    """What changed from an old model to a new one.

    Attributes:
        comparison: The figures.
        fixed: The pairs that the new model mended, those whose similarity moved most first.
        broken: The pairs that it got wrong anew.
    """

    comparison: Comparison
    fixed: tuple[ChangedPair, ...]
    broken: tuple[ChangedPair, ...]
