"""Embedding a caller's own store again after another model version serves."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from magface_client.errors import (
    FailedPreconditionError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from magface_client.pictures import ImageInput
from magface_client.results import Face, ServingInfo, Streamed

_Key = TypeVar("_Key")

# How long an embedder may take to follow the promotion of the version that another one serves.
_ROLLOUT_S: Final = 60.0
_PAUSE_S: Final = 1.0
# What another try may mend.
_PASSING: Final = (FailedPreconditionError, OverloadedError, UnavailableError)


class EmbeddingStore(Protocol[_Key]):
    """What `rebase` needs of a store. Keys are hashable."""

    def outdated(self, model_version: str) -> Iterable[tuple[_Key, float | None]]:
        """Return each record of another model version: its key, and the `Face.quality` in it.

        A record without a quality has None, and comes first.
        """

    def image(self, key: _Key) -> ImageInput:
        """Return the image of a record."""

    def save(self, key: _Key, face: Face) -> None:
        """Replace embedding, version, magnitude and quality of a record, all at once."""


class StreamingEmbedder(Protocol):
    """The part of the client that `rebase` needs."""

    def model(self) -> ServingInfo:
        """Describe the version that serves."""

    def embed_stream(
        self, images: Iterable[tuple[_Key, ImageInput]], *, model_version: str = ""
    ) -> Iterator[Streamed[_Key]]:
        """Embed images."""


@dataclass(frozen=True)
class RebaseProgress:
    """How far a rebase is: records that were saved, that failed, and all that were outdated."""

    model_version: str
    saved: int
    failed: int
    total: int


@dataclass(frozen=True)
class RebaseReport(Generic[_Key]):
    """What a rebase did.

    Attributes:
        model_version: The version that serves; all records but those of `failed` have it.
        saved: Number of records that were embedded again with it.
        failed: Records whose image was refused or cannot be read; they are as they were before.
    """

    model_version: str
    saved: int
    failed: dict[_Key, ServiceError | OSError]


def rebase(
    client: StreamingEmbedder,
    store: EmbeddingStore[_Key],
    progress: Callable[[RebaseProgress], None],
) -> RebaseReport[_Key]:
    """Embed the outdated records of a store with the version that serves, lowest quality first.

    Those gain most from a better version. Each record is saved as soon as it is embedded. If the
    run is interrupted, the next one goes on with what is left. If another version is promoted
    meanwhile, all records get that one in the end. The keys and qualities of the outdated records
    are held in memory, the images are not.

    Raises:
        ServiceError: If the embedder cannot be reached, or does not accept the version.
        Exception: Whatever the store raises, but for an OSError of an image.
    """
    while True:
        version = client.model().model_version
        run = _Run(client, store, progress, version)
        run.finish()
        if client.model().model_version == version:
            return RebaseReport(version, run.saved, run.failed)


class _Run(Generic[_Key]):
    """The rebase to one version."""

    def __init__(
        self,
        client: StreamingEmbedder,
        store: EmbeddingStore[_Key],
        progress: Callable[[RebaseProgress], None],
        version: str,
    ) -> None:
        self._client = client
        self._store = store
        self._progress = progress
        self._version = version
        self.saved = 0
        self.failed: dict[_Key, ServiceError | OSError] = {}
        outdated = list(store.outdated(version))
        outdated.sort(key=lambda record: -1.0 if record[1] is None else record[1])
        self._keys = [key for key, _ in outdated]
        self._total = len(self._keys)

    def finish(self) -> None:
        """Embed all records, or stop because another version serves."""
        give_up = time.monotonic() + _ROLLOUT_S
        while self._keys:
            refused = self._embed()
            self._keys = list(refused)
            if not refused:
                return
            if self._client.model().model_version != self._version:
                return
            # A replica that has not followed the promotion yet refuses the version.
            if time.monotonic() > give_up:
                raise next(iter(refused.values()))
            time.sleep(_PAUSE_S)

    def _embed(self) -> dict[_Key, ServiceError]:
        """Embed the records that are left; returns those that may be accepted later."""
        refused: dict[_Key, ServiceError] = {}
        images = self._images(self._keys)
        for answer in self._client.embed_stream(images, model_version=self._version):
            if answer.face is not None:
                self._store.save(answer.key, answer.face)
                self.saved += 1
            elif isinstance(answer.error, _PASSING):
                refused[answer.key] = answer.error
            elif answer.error is not None:
                self.failed[answer.key] = answer.error
            self._progress(RebaseProgress(self._version, self.saved, len(self.failed), self._total))
        return refused

    def _images(self, keys: list[_Key]) -> Iterator[tuple[_Key, ImageInput]]:
        for key in keys:
            try:
                image = self._store.image(key)
            except OSError as error:
                self.failed[key] = error
            else:
                yield key, image
