"""Entry point of the embedder: ``python -m services.embedder``."""

from services.embedder.server import SERVICE_NAME, embedder
from services.embedder.settings import EmbedderSettings
from shared.errors import MagFaceError, with_details
from shared.heap import limit_heaps
from shared.model.sessions.onnx import share_threads
from shared.rpc.server.runner import run_server
from shared.settings import settings_or_exit


def main() -> None:
    # `run_server` would do it after the detector and ONNX Runtime have started threads.
    limit_heaps()
    settings = settings_or_exit(EmbedderSettings, "the embedder")
    if settings.engine == "onnxruntime":
        share_threads(settings.engine_threads)
    try:
        build = embedder(settings)
    except MagFaceError as error:
        raise SystemExit(f"the embedder cannot start: {with_details(error)}") from None
    run_server(settings, SERVICE_NAME, build)


if __name__ == "__main__":
    main()
