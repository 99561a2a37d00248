from pathlib import Path

import pytest

from services.trainer.jobs.completion import JobCompletion
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.version_signatures import sign_versions
from services.trainer.registry.versions import VersionRegistry
from shared.errors import CorruptData
from shared.registry.serving_pointer import read_pointer
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.postgres import Pool
from tests.services.trainer.samples import PASSED, add_sample, make_folder
from tests.support.tokens import Issuer, write_jwks, write_signing_key


async def test_what_was_made_before_the_key_is_signed_at_the_next_start(
    *,
    pool: Pool,
    versions: VersionRegistry,
    completion: JobCompletion,
    pointer: ServingPointerPublisher,
    object_store_settings: ObjectStoreSettings,
    tmp_path: Path,
):
    for name in ("v1", "v2"):
        job = await add_sample(pool, name, PASSED)
        folder = make_folder(tmp_path / name, name, job.job_id)
        await completion.publish_version(job, folder)
    await versions.promote("v1", requested_by="ada", reason="first")
    await pointer.publish()
    issuer = Issuer()
    trusting = SignedObjects(object_store_settings, trusted=write_jwks(tmp_path / "jwks", issuer))
    with pytest.raises(CorruptData):
        read_pointer(trusting)
    signing = SignedObjects(
        object_store_settings, signing_key=write_signing_key(tmp_path / "key", issuer)
    )
    await sign_versions(versions, VersionStore(signing, tmp_path / "trainer"))
    await ServingPointerPublisher(pool, signing).publish()
    served = read_pointer(trusting)
    assert served is not None
    assert served.model_version == "v1"
    embedder = VersionStore(trusting, tmp_path / "embedder")
    assert {embedder.fetch(name).name for name in ("v1", "v2")} == {"v1", "v2"}
