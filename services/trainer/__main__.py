"""`python -m services.trainer` serves TrainerService until SIGTERM."""

from functools import partial

from services.trainer.server import SERVICE_NAME, trainer_service
from services.trainer.settings import TrainerSettings, WorkerSettings
from shared.rpc.server.runner import run_server
from shared.settings import settings_or_exit


def main() -> None:
    """Read the settings and serve."""
    # The workers read these themselves. An error in them should stop the start, not a later job.
    settings_or_exit(WorkerSettings, "the trainer")
    settings = settings_or_exit(TrainerSettings, "the trainer")
    run_server(settings, SERVICE_NAME, partial(trainer_service, settings))


if __name__ == "__main__":
    main()
