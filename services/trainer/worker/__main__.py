"""``python -m services.trainer.worker``: does one job as a child process of the trainer."""

import os
import sys
from functools import partial

from services.trainer.settings import WorkerSettings
from services.trainer.worker.handlers import freeze_feedback, handle_job
from services.trainer.worker.process import RunnerGone, run
from shared.settings import settings_or_exit


def main() -> None:
    settings = settings_or_exit(WorkerSettings, "the worker")
    try:
        run(
            partial(handle_job, settings),
            prepare=partial(freeze_feedback, settings),
            under_torchrun="TORCHELASTIC_RUN_ID" in os.environ,
        )
    except RunnerGone as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
