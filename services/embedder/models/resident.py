"""The loaded model versions, which of them serves, and at which operating point."""

from dataclasses import dataclass
from datetime import UTC, datetime

from services.embedder.models.decision_rule import NO_TARGET, DecisionRule, FmrTarget
from shared.errors import PreconditionFailed, Unavailable
from shared.model.manifest import Manifest
from shared.model.sessions.base import Session


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model version that is ready to compute."""

    manifest: Manifest
    session: Session

    @property
    def version(self) -> str:
        return self.manifest.model_version


@dataclass(frozen=True, eq=False)
class ActiveModel:
    """A version that can answer requests, and how it judges at the operating point in force."""

    model: LoadedModel
    rule: DecisionRule

    @property
    def version(self) -> str:
        return self.model.version


class ResidentModels:
    """Holds the serving version and the one that served before; belongs to the loop's thread.

    A request resolves its model once, when it is accepted, and holds it until it is answered. So a
    swap or another operating point neither mixes versions or thresholds within a request nor fails
    one.
    """

    def __init__(self) -> None:
        self._serving: ActiveModel | None = None
        self._previous: ActiveModel | None = None
        self._since: datetime | None = None

    @property
    def serving(self) -> ActiveModel | None:
        return self._serving

    @property
    def serving_version(self) -> str | None:
        return self._serving.version if self._serving else None

    @property
    def serving_since(self) -> datetime | None:
        """When the serving version began to serve, at whatever operating point."""
        return self._since

    @property
    def target(self) -> FmrTarget | None:
        """The operating point in force; None before the first version is loaded."""
        return self._serving.rule.target if self._serving else None

    @property
    def versions(self) -> list[str]:
        """Names of the loaded versions, the serving one first."""
        return [active.version for active in self._all()]

    def find(self, model_version: str) -> ActiveModel | None:
        for active in self._all():
            if active.version == model_version:
                return active
        return None

    def resolve(self, model_version: str = "") -> ActiveModel:
        """Give the model that answers a request, at the operating point in force.

        Args:
            model_version: The version that the request names; the serving one when empty.

        Raises:
            Unavailable: Before the first version is loaded.
            PreconditionFailed: If the version is not loaded.
        """
        if self._serving is None:
            raise Unavailable("no model version is loaded yet; try again when health is SERVING")
        if not model_version:
            return self._serving
        if active := self.find(model_version):
            return active
        loaded = " and ".join(self.versions)
        raise PreconditionFailed(
            f"model_version: {model_version} is not loaded here, only {loaded}; "
            "ask for one of these, or leave it empty for the serving version"
        )

    def serve(self, model: LoadedModel, target: FmrTarget = NO_TARGET) -> LoadedModel | None:
        """Let a model answer the requests that arrive from now on.

        Args:
            model: The one that serves.
            target: The operating point, also of calls that name the previous version.

        Returns:
            The model that is no longer held, if any.
        """
        before, released = self._serving, self._previous
        previous = released
        if before is None or before.model is not model:
            self._since = datetime.now(UTC)
            previous = before
        self._serving = _at(model, target)
        self._previous = _at(previous.model, target) if previous else None
        held = [active.model for active in self._all()]
        return released.model if released and released.model not in held else None

    def _all(self) -> list[ActiveModel]:
        return [active for active in (self._serving, self._previous) if active]


def _at(model: LoadedModel, target: FmrTarget) -> ActiveModel:
    return ActiveModel(model, DecisionRule.of(model.manifest, target))
