"""Files with a private key that signs (JWK), and with public keys to check signatures (JWKS)."""

import json
from collections.abc import Sequence
from typing import Final

from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

# Of signing keys; RFC 9864. Its signatures are short and need no random numbers.
SIGNING_ALGORITHM: Final = "Ed25519"
# Symmetric keys would let everybody who checks a signature also make one.
_ASYMMETRIC: Final = frozenset({"RSA", "EC", "OKP"})


def load_signing_key(contents: Sequence[bytes]) -> OKPKey:
    """Load a private key, for `shared.watched_files.WatchedFiles`.

    Args:
        contents: Of one file.

    Raises:
        ValueError: If it is none that `magface token keys` makes.
    """
    try:
        key = OKPKey.import_key(json.loads(contents[0]))
    except (JoseError, ValueError, TypeError, KeyError):
        key = None
    if key is None or not key.is_private or key.kid is None or key.curve_name != SIGNING_ALGORITHM:
        raise ValueError("it is not a signing key of `magface token keys`")
    return key


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
