"""`python -m services.trainer` serves TrainerService until SIGTERM."""

from functools import partial

from services.trainer.server import SERVICE_NAME, trainer_service
from services.trainer.settings import TrainerSettings, WorkerSettings
from shared.rpc.server.runner import run_server


def main() -> None:
    # What only the workers take is looked at here too, before a job fails for the want of it.
    WorkerSettings()
    settings = TrainerSettings()
    run_server(settings, SERVICE_NAME, partial(trainer_service, settings))


if __name__ == "__main__":
    main()
