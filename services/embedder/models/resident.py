"""The loaded model versions, and which of them serves."""

from dataclasses import dataclass
from datetime import UTC, datetime

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


@dataclass(frozen=True)
class ActiveModel:
    """The version that answers requests, and since when."""

    model: LoadedModel
    since: datetime


class ResidentModels:
    """Holds the serving version and the one that served before; belongs to the loop's thread.

    A request resolves its model once, when it is accepted, and holds it until it is answered. So a
    swap neither mixes versions within a request nor fails one.
    """

    def __init__(self) -> None:
        self._serving: ActiveModel | None = None
        self._previous: LoadedModel | None = None

    @property
    def serving(self) -> ActiveModel | None:
        return self._serving

    @property
    def serving_version(self) -> str | None:
        return self._serving.model.version if self._serving else None

    @property
    def versions(self) -> list[str]:
        """Names of the loaded versions, the serving one first."""
        return [model.version for model in self._models()]

    def find(self, model_version: str) -> LoadedModel | None:
        for model in self._models():
            if model.version == model_version:
                return model
        return None

    def resolve(self, model_version: str = "") -> LoadedModel:
        """Give the model that answers a request.

        Args:
            model_version: The version that the request names; the serving one when empty.

        Raises:
            Unavailable: Before the first version is loaded.
            PreconditionFailed: If the version is not loaded.
        """
        if self._serving is None:
            raise Unavailable("no model version is loaded yet; try again when health is SERVING")
        if not model_version:
            return self._serving.model
        if model := self.find(model_version):
            return model
        loaded = " and ".join(self.versions)
        raise PreconditionFailed(
            f"model_version: {model_version} is not loaded here, only {loaded}; "
            "ask for one of these, or leave it empty for the serving version"
        )

    def serve(self, model: LoadedModel) -> LoadedModel | None:
        """Let a model answer the requests that arrive from now on.

        Returns:
            The model that is no longer held, if any.
        """
        before, released = self._serving, self._previous
        self._serving = ActiveModel(model, datetime.now(UTC))
        if before is not None and before.model is not model:
            self._previous = before.model
        return None if released in (model, self._previous) else released

    def _models(self) -> list[LoadedModel]:
        models = [self._serving.model] if self._serving else []
        return models + ([self._previous] if self._previous else [])
