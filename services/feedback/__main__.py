"""Entry point: `python -m services.feedback` serves FeedbackService until SIGTERM."""

from functools import partial
from typing import Final

from services.feedback.server import feedback_service
from services.feedback.settings import FeedbackSettings
from shared.rpc.server.runner import run_server
from shared.settings import settings_or_exit

SERVICE: Final = "magface.v1.FeedbackService"


def main() -> None:
    settings = settings_or_exit(FeedbackSettings, "the feedback service")
    run_server(settings, SERVICE, partial(feedback_service, settings))


if __name__ == "__main__":
    main()
