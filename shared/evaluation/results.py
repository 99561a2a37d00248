"""Results of evaluations and comparisons, as they are printed, stored and sent."""

from pydantic import BaseModel, ConfigDict

from shared.model.operating_curve import Evidence, Rate


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """95 % bootstrap interval."""

    low: float
    high: float


class Folded(_Frozen):
    """Accuracy over folds, each at the best threshold of the other folds."""

    folds: int
    mean: float
    std: float


class RejectCurve(_Frozen):
    """FNMR at a fixed FMR against the share of genuine pairs rejected by magnitude."""

    fmr: float
    rejected: tuple[float, ...]
    fnmr: tuple[float, ...]


class Mirrored(_Frozen):
    """Figures when the features of the mirror image are added before normalization."""

    best_accuracy: float
    best_threshold: float
    auc: float
    eer: float


class Evaluation(_Frozen):
    """Figures of one model on one set of pairs.

    Attributes:
        threshold: Threshold of accuracy, precision, recall and the counts.
        best_accuracy: None, like best_threshold, auc and eer, when all pairs are genuine or
            all are impostors.
        tar_at_far: TAR by FAR; None where there are too few impostor pairs to measure it.
        intervals: 95 % bootstrap intervals of accuracy, auc, eer, best_accuracy, and TAR as
            ``tar_at_far.0.01``. The bootstrap resamples identities, or images where the set
            has no identities.
        folded: None unless the set has folds.
        mirrored: None unless it was requested.
        error_versus_reject: None where there are too few impostor pairs for its FMR.
        images_per_second: Throughput of embedding, including decoding.
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
        """Return a figure by the name of its interval, such as ``tar_at_far.0.01``."""
        value: float | None
        if name.startswith("tar_at_far."):
            value = self.tar_at_far[name.removeprefix("tar_at_far.")]
        else:
            value = getattr(self, name)
        return value


class McNemar(_Frozen):
    """McNemar's exact test on paired decisions.

    Attributes:
        fixed: Pairs that the old model decides wrongly and the new one correctly.
        broken: Pairs that the old model decides correctly and the new one wrongly.
        p_value: Two-sided p-value of the null hypothesis that both are equally accurate.
    """

    fixed: int
    broken: int
    p_value: float


class Difference(_Frozen):
    """A figure of the new model minus that of the old one, with a paired 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(_Frozen):
    """Comparison of two models on the same pairs, each at its own threshold.

    Attributes:
        mcnemar: Test of the changed decisions.
        differences: Differences of the figures that have intervals; empty where the set has
            only one class.
        genuine_shift: Mean of new minus old similarity of the genuine pairs; None without any.
        impostor_shift: The same for the impostor pairs.
    """

    mcnemar: McNemar
    differences: dict[str, Difference]
    genuine_shift: float | None
    impostor_shift: float | None


class ChangedPair(_Frozen):
    """A pair that one model decides correctly and the other wrongly.

    Attributes:
        pair: Index of the pair in the set.
        images: Names of its two images.
    """

    pair: int
    genuine: bool
    images: tuple[str, str]
    old_similarity: float
    similarity: float


class Changes(_Frozen):
    """Changes from an old model to a new one.

    Attributes:
        comparison: The figures.
        fixed: Pairs that only the new model decides correctly, largest change of similarity
            first.
        broken: Pairs that only the old model decides correctly, in the same order.
    """

    comparison: Comparison
    fixed: tuple[ChangedPair, ...]
    broken: tuple[ChangedPair, ...]


class GroupRate(_Frozen):
    """An error rate of a group.

    Attributes:
        rate: None without a pair.
        evidence: What it was measured on.
        enough: Whether that is enough to compare the group with others.
    """

    rate: Rate | None
    evidence: Evidence
    enough: bool


class GroupRates(_Frozen):
    """Error rates of a group; the FMR is that of impostor pairs within the group."""

    name: str
    fnmr: GroupRate
    fmr: GroupRate


class Inequity(_Frozen):
    """How unequal an error rate is over groups.

    Attributes:
        worst: The group with the highest rate.
        ratio: That rate over the geometric mean of all groups' rates, at least 1.
        groups: Number of groups compared.
    """

    worst: str
    ratio: float
    groups: int


class GroupComparison(_Frozen):
    """Error rates by group at one threshold.

    Attributes:
        groups: By name.
        fnmr_inequity: None with fewer than two groups with enough people, or without an error.
        fmr_inequity: The same for the FMR.
    """

    threshold: float
    groups: tuple[GroupRates, ...]
    fnmr_inequity: Inequity | None
    fmr_inequity: Inequity | None
