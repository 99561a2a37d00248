"""Projected time from `StartTraining` to a live model, from measured parts."""

from collections.abc import Mapping
from typing import Any


def on_idle_processors(steps: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the measured seconds by those of the same work on processors without other load.

    Args:
        steps: From `measure_steps` on a CPU; all threads are taken to work all the time.
    """
    threads = steps["threads"]
    return {
        **steps,
        "seconds_a_step": steps["processor_seconds_a_step"] / threads,
        "seconds_an_image": steps["processor_seconds_an_image"] / threads,
    }


def projected_stages(
    steps: Mapping[str, Any], export: Mapping[str, Any], serving: Mapping[str, Any]
) -> dict[str, float]:
    """Compute the seconds of each stage of a training with the default recipe.

    The search for wrong labels trains two networks, each on half of the people and for half of the
    epochs; it is left out if all labels seem right. The transfer of images and of versions to and
    from the stores is not part of the projection.

    Args:
        steps: From `measure_steps`.
        export: From `export_network`.
        serving: From `measure_serving`, on the device that will serve.

    Returns:
        Seconds by stage, and their sum as ``total``.
    """
    image, step = steps["seconds_an_image"], steps["seconds_a_step"]
    epochs, images, reference = steps["epochs"], steps["images"], steps["reference_images"]
    stages = {
        "decoding": steps["decode_s"],
        "embedding": (images + reference) * image,
        "checking labels": max(1, epochs // 2) * steps["steps_of_all_images"] * step
        + 2 * images * image,
        "training": epochs * (steps["steps_an_epoch"] * step + steps["validation_images"] * image),
        "evaluating": (steps["step_back_images"] + steps["evaluated_images"] + reference) * image,
        "exporting": export["export_s"],
        "swapping": serving["open_s"] + serving["check_s"],
    }
    return stages | {"total": sum(stages.values())}
