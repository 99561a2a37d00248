"""The gate's verdict as JSON, for Postgres and for the pipe from the training child."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from services.trainer.training import GateVerdict


class _Stored(BaseModel):
    # A broken candidate has NaN among its figures, for which jsonb has no number.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    verdict: GateVerdict


def verdict_to_json(verdict: GateVerdict | None) -> str | None:
    """Write a verdict as a JSON document."""
    return None if verdict is None else _Stored(verdict=verdict).model_dump_json()


def verdict_from_json(stored: Any) -> GateVerdict | None:
    """Read what `verdict_to_json` wrote, as psycopg gives it back from jsonb.

    Raises:
        pydantic.ValidationError: If it is something else.
    """
    return None if stored is None else _Stored.model_validate(stored).verdict
