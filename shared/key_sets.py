"""Files with the public keys of those who may sign (JWKS)."""

import json
from collections.abc import Sequence
from typing import Final

from joserfc.errors import JoseError
from joserfc.jwk import KeySet

# Symmetric keys would let everybody who checks a signature also make one.
_ASYMMETRIC: Final = frozenset({"RSA", "EC", "OKP"})


def load_key_set(contents: Sequence[bytes]) -> KeySet:
    """Load the keys of a JSON Web Key Set, for `shared.watched_files.WatchedFiles`.

    Args:
        contents: Of one file.

    Raises:
        ValueError: If it is none, or has a private or symmetric key.
    """
    try:
        keys = KeySet.import_key_set(json.loads(contents[0]))
    except (ValueError, TypeError, KeyError, AttributeError, JoseError):
        raise ValueError("it is not a JSON Web Key Set with at least one key") from None
    for key in keys:
        if key.key_type not in _ASYMMETRIC or key.is_private:
            raise ValueError("it must have public keys only; see `magface token keys`")
    return keys
