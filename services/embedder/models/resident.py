"""The model versions that are loaded, and the one of them that serves."""

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
class Serving:
    """The version that answers now."""

    model: LoadedModel
    since: datetime


class ResidentModels:
    """Keeps the serving version and the one that served before it; belongs to the loop's thread.

    A request takes its model from here once, when it is accepted, and holds it until it
    is answered: so a change of version neither mixes versions nor fails a request.
    """

    def __init__(self) -> None:
        self._serving: Serving | None = None
        self._previous: LoadedModel | None = None

    @property
    def serving(self) -> Serving | None:
        return self._serving

    @property
    def serving_version(self) -> str | None:
        return self._serving.model.version if self._serving else None

    @property
    def versions(self) -> list[str]:
        """What is loaded, the serving version first."""
        return [model.version for model in self._models()]

    def find(self, model_version: str) -> LoadedModel | None:
        for model in self._models():
            if model.version == model_version:
                return model
        return None

    def pick(self, model_version: str = "") -> LoadedModel:
        """Choose what answers a request.

        Args:
            model_version: What the request asks for; empty for whatever serves.

        Raises:
            Unavailable: Before the first version is loaded.
            PreconditionFailed: If the version is not loaded here.
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
            "ask for one of these, or leave it empty for the one that serves"
        )

    def flip(self, model: LoadedModel) -> LoadedModel | None:
        """Let another model answer the requests that come from now on.

        Returns:
            The model that is not kept any longer, if any.
        """
        before, let_go = self._serving, self._previous
        self._serving = Serving(model, datetime.now(UTC))
        if before is not None and before.model is not model:
            self._previous = before.model
        return None if let_go in (model, self._previous) else let_go

    def _models(self) -> list[LoadedModel]:
        models = [self._serving.model] if self._serving else []
        return models + ([self._previous] if self._previous else [])
