"""Figures of a candidate beside its parent: the input of the gate."""

from dataclasses import dataclass

from shared.model.operating_curve import Rate

# Standard errors from a value to the end of its one-sided 95 % interval.
_ONE_SIDED = 1.645


@dataclass(frozen=True)
class Change:
    """A figure of the parent and of the candidate on the same pairs.

    Attributes:
        before: The parent's, or that between two stored embeddings.
        after: The candidate's.
        low: Lower end of the interval of `after - before` over people: each end alone has 95 %
            confidence. None if it was not measured.
        high: Its upper end.
        people: People behind it.
        pairs: Pairs behind it.
    """

    before: float
    after: float
    low: float | None = None
    high: float | None = None
    people: int = 0
    pairs: int = 0

    @property
    def rise(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, kw_only=True)
class FalseMatches:
    """False-match rates on the same impostor pairs, each version at the threshold it serves with.

    Attributes:
        parent: The parent's.
        child: The candidate's, with its two-sided 95 % interval over people.
        rise_low: Lower end of the paired two-sided 95 % interval of the candidate's minus the
            parent's.
        rise_high: Its upper end.
    """

    parent: float
    child: Rate
    rise_low: float
    rise_high: float
    people: int
    pairs: int


@dataclass(frozen=True)
class GainWithinChance:
    """Gain of a training whose parent was kept, because so few validation people do not show it.

    Attributes:
        gain: In the area under the ROC curve; may be below 0.
        noise: Its standard error over people.
        people: Validation people with a genuine pair.
    """

    gain: float
    noise: float
    people: int

    @property
    def low(self) -> float:
        """Lower end of the interval, which alone has 95 % confidence."""
        return self.gain - _ONE_SIDED * self.noise

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.gain + _ONE_SIDED * self.noise


@dataclass(frozen=True)
class JudgedPoint:
    """The operating point that a candidate is judged at.

    Attributes:
        target_fmr: What the operator asks for.
        kept_fmr: At this false-match rate FNMR is compared: the target, or the lowest rate above it
            that the impostor pairs resolve for both versions.
        served_fmr: What the candidate's threshold is meant to keep.
    """

    target_fmr: float
    kept_fmr: float
    served_fmr: float


@dataclass(frozen=True, kw_only=True)
class CandidateFigures:
    """Figures of a candidate on people and faces that it was not trained on.

    Balanced errors are the mean of FNMR and FMR, 0..1, at thresholds that weigh both equally.

    Attributes:
        point: The operating point; None for equal error weights.
        separation: Area under the ROC curve on held-out pairs; with an interval only without a
            point.
        errors: Balanced errors on held-out pairs.
        fnmr: FNMR on held-out pairs at the point; None without one.
        heldout_matches: False matches on held-out pairs.
        reference_matches: False matches on reference faces.
        reference: FNMR on reference faces at the point; without one, balanced errors, at thresholds
            calibrated on these faces.
        compatibility: FNMR on held-out pairs at the point, between two stored embeddings and
            between a stored and a new one; without a point, balanced errors.
        mixed_matches: False matches on held-out pairs between new and stored embeddings.
        magnitude_ratio: Geometric mean of the candidate's magnitudes over the parent's.
        magnitude_order: Spearman's rank correlation of the two versions' magnitudes.
    """

    point: JudgedPoint | None
    separation: Change
    errors: Change
    fnmr: Change | None
    heldout_matches: FalseMatches
    reference_matches: FalseMatches
    reference: Change
    compatibility: Change
    mixed_matches: FalseMatches
    magnitude_ratio: float
    magnitude_order: float

    def metrics(self) -> dict[str, float]:
        """Return the figures by name, for the manifest."""
        changes = {
            "separation": self.separation,
            "error": self.errors,
            "fnmr": self.fnmr,
            "reference": self.reference,
        }
        found = {
            f"{who}_{name}": value
            for name, change in changes.items()
            if change is not None
            for who, value in (("parent", change.before), ("child", change.after))
        }
        return found | {
            "people": float(self.separation.people),
            "genuine_pairs": float(self.separation.pairs),
            "mixed": self.compatibility.after,
            "parent_heldout_fmr": self.heldout_matches.parent,
            "child_heldout_fmr": self.heldout_matches.child.value,
            "parent_reference_fmr": self.reference_matches.parent,
            "child_reference_fmr": self.reference_matches.child.value,
            "magnitude_ratio": self.magnitude_ratio,
            "magnitude_order": self.magnitude_order,
        }
