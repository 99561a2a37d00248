"""Durations of a correction: the stages of the training job, then the swap of the model."""

from typing import Any

from magface.v1 import trainer_pb2

from cli.commands.job_progress import stage_durations


def correction_times(job: trainer_pb2.Job, seconds: float, *, swapped: bool) -> dict[str, Any]:
    """Splits the duration of a correction into its stages.

    Args:
        job: The ended training job.
        seconds: Seconds from the training request to the end of the correction.
        swapped: Whether the correction ended with the new version in service.

    Returns:
        The total seconds, and those of each stage, in the order of their first start.
    """
    stages: dict[str, float] = {}
    for stage, duration in stage_durations(job):
        stages[stage] = stages.get(stage, 0.0) + duration
    if swapped:
        stages["swapping"] = seconds - sum(stages.values())
    return {"seconds": seconds, "stages": stages}
