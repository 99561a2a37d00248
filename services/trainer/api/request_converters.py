"""Conversion of request messages into parameters of the trainer."""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from magface.v1 import trainer_pb2 as pb

from services.trainer.training.spec import TrainingRecipe
from services.trainer.worker.specs import TrainOptions
from shared.errors import InvalidInput
from shared.model.manifest import ChannelOrder
from shared.rpc.server.requests import check_texts

_RECIPES: Final[dict[pb.Recipe.ValueType, TrainingRecipe]] = {
    pb.RECIPE_UNSPECIFIED: TrainingRecipe.COSINE,
    pb.RECIPE_COSINE: TrainingRecipe.COSINE,
    pb.RECIPE_HADSELL: TrainingRecipe.HADSELL,
}
_ORDERS: Final[dict[pb.ChannelOrder.ValueType, ChannelOrder]] = {
    pb.CHANNEL_ORDER_UNSPECIFIED: "bgr",
    pb.CHANNEL_ORDER_BGR: "bgr",
    pb.CHANNEL_ORDER_RGB: "rgb",
}


def read_job_id(job_id: str) -> UUID:
    """Parse a job id.

    Raises:
        InvalidInput: If it is not a UUID.
    """
    try:
        return UUID(job_id)
    except ValueError as error:
        raise InvalidInput("job_id", f"is {job_id!r}, which is not a UUID") from error


def read_options(options: pb.TrainingOptions) -> TrainOptions:
    """Convert training options; their ranges are checked later.

    Raises:
        InvalidInput: If the recipe is no value of the enum.
    """
    recipe = _RECIPES.get(options.recipe)
    if recipe is None:
        raise InvalidInput("options.recipe", f"is {options.recipe}, which is not a Recipe")
    given = {field.name: value for field, value in options.ListFields()} | {"recipe": recipe}
    given.pop("parent_version", None)
    return TrainOptions.model_validate(given)


def read_channel_order(number: pb.ChannelOrder.ValueType) -> ChannelOrder:
    """Convert a channel order.

    Raises:
        InvalidInput: If it is no value of the enum.
    """
    order = _ORDERS.get(number)
    if order is None:
        raise InvalidInput("options.channel_order", f"is {number}, which is not a ChannelOrder")
    return order


def read_expected_generation(
    request: pb.PromoteModelRequest | pb.RollbackRequest | pb.SetOperatingPointRequest,
) -> int | None:
    """Return the generation that must be in force; None for any."""
    return request.expected_generation if request.HasField("expected_generation") else None


async def read_upload(
    requests: AsyncIterator[pb.ImportModelRequest],
) -> tuple[pb.ImportOptions, AsyncIterator[bytes]]:
    """Split an upload into its options and the chunks of the file.

    Raises:
        InvalidInput: If the options do not come first, or one of their texts breaks its rule.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "options":
        raise InvalidInput("options", "is missing; it must be the first message of the upload")
    check_texts(first)
    return first.options, _chunks(requests)


async def _chunks(requests: AsyncIterator[pb.ImportModelRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput("chunk", "is missing; all messages but the first carry one")
        yield request.chunk
