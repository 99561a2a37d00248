"""The embedder as a process: start, stop, and restart after a kill."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import NoReturn

import grpc
import psutil
import pytest
from magface.v1 import embedder_pb2 as pb

from tests.services.embedder import broken
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image, large_image
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client
from tests.support.processes import lives
from tests.support.waiting import until

CROPS = crops(4)
A, B = VERSIONS


@pytest.mark.usefixtures("published")
async def test_sigterm_under_load_fails_no_accepted_call(embedder_settings, tmp_path):
    # A long grace period: on a busy machine this queue takes more than the default of 10 s.
    roomy = {"MAGFACE_MAX_IMAGES": "5000", "MAGFACE_STOP_GRACE_S": "60"}
    with EmbedderProcess(embedder_settings, tmp_path, **roomy) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving(A)
            requests = [pb.EmbedRequest(images=map(image, crops(60, seed=n))) for n in range(20)]
            calls = [client.stub.Embed(request, timeout=60) for request in requests]
            # gRPC does not keep the order of calls, so only the server knows which have started.
            await until(lambda: process.embeds_started() == len(calls))
            process.send_signal(signal.SIGTERM)
            assert not all(call.done() for call in calls)
            responses = await asyncio.gather(*calls)
        assert [len(response.faces) for response in responses] == [60] * 20
        assert process.wait() == 0


@pytest.mark.usefixtures("published")
async def test_sigterm_answers_the_calls_whose_pictures_are_being_decoded(
    embedder_settings, tmp_path
):
    with EmbedderProcess(embedder_settings, tmp_path, MAGFACE_STOP_GRACE_S="60") as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving(A)
            requests = [pb.EmbedRequest(images=[large_image(n)]) for n in range(12)]
            calls = [client.stub.Embed(request, timeout=60) for request in requests]
            await until(lambda: process.embeds_started() == len(calls))
            process.send_signal(signal.SIGTERM)
            assert not all(call.done() for call in calls)
            responses = await asyncio.gather(*calls)
        assert [len(response.faces) for response in responses] == [1] * 12
        assert process.wait() == 0
        assert "Traceback" not in process.log


@pytest.mark.usefixtures("published")
async def test_an_embedder_whose_decode_processes_hang_ends_with_all_of_them(
    embedder_settings, tmp_path
):
    with EmbedderProcess(embedder_settings, tmp_path, MAGFACE_STOP_GRACE_S="1") as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving(A)
            await client.embed(large_image(0))
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) > 2
            # The fork server comes first; it hangs too.
            for child in reversed(children):
                child.suspend()
            try:
                call = client.stub.Embed(pb.EmbedRequest(images=[large_image(1)]), timeout=60)
                await until(lambda: process.embeds_started() == 2)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 15) == 1
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
                await until(lambda: not any(lives(child.pid) for child in children), 5)
            finally:
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
        assert "something is stuck" in process.log


async def test_an_embedder_whose_network_hangs_while_it_serves_ends(
    embedder_settings, registry, tiny_versions, tmp_path
):
    hanging = broken.renamed(tiny_versions[A], tmp_path / "hanging")
    broken.endless_on_white_corner(hanging)
    registry.publish(hanging)
    registry.promote("hanging")
    with EmbedderProcess(embedder_settings, tmp_path, MAGFACE_RUN_TIMEOUT_S="1") as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving("hanging")
            await client.embed(image(CROPS[0]))
            cornered = CROPS[0].copy()
            cornered[0, 0] = 255
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await client.embed(image(cornered))
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(process.wait, 10) == 1
    assert "MAGFACE_RUN_TIMEOUT_S" in process.log


@pytest.mark.usefixtures("published")
async def test_an_idle_embedder_stops_soon_and_cleanly(embedder_settings, tmp_path):
    with EmbedderProcess(embedder_settings, tmp_path) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            await Client(channel).until_serving(A)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert "Traceback" not in process.log


@pytest.mark.parametrize("moment", [".{}.lock", ".{}.partial", "{}/manifest.json"])
async def test_killed_during_a_swap_it_converges_after_the_restart(
    embedder_settings, published, tmp_path, moment
):
    # A download may end between two checks; then the process is killed a moment later.
    moments = [
        embedder_settings.cache_dir / each.format(B) for each in (moment, "{}/manifest.json")
    ]
    with EmbedderProcess(embedder_settings, tmp_path) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            await Client(channel).until_serving(A)
            published.promote(B)
            await until(lambda: any(each.exists() for each in moments))
            process.kill()
    with EmbedderProcess(embedder_settings, tmp_path) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving(B)
            assert (await client.embed(image(CROPS[0]))).model_version == B


async def _watch_niceness(process: EmbedderProcess, seen: list[list[int]]) -> NoReturn:
    while True:
        seen.append(process.niceness())
        await asyncio.sleep(0.002)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows a thread's priority")
async def test_only_what_loads_steps_back_and_what_it_loaded_computes_at_full_priority(
    embedder_settings, published, tmp_path
):
    with EmbedderProcess(embedder_settings, tmp_path, MAGFACE_ENGINE_THREADS="3") as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving(A)
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            assert set(process.niceness()) == {ours}
            while_loading: list[list[int]] = []
            watching = asyncio.create_task(_watch_niceness(process, while_loading))
            # A load may be too short to be seen.
            for version in (B, A) * 5:
                published.promote(version)
                await client.until_serving(version)
                if any(max(each) > ours for each in while_loading):
                    break
            watching.cancel()
            # A session of its own threads, opened in the background, would keep two more.
            await until(lambda: set(process.niceness()) == {ours})
    stepped_back = max(sorted(set(each) - {ours}) for each in while_loading)
    assert stepped_back == [10] * (ours < 10)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_gpu_that_is_not_there_ends_the_start(embedder_settings, tmp_path, engine):
    wish = {"MAGFACE_DEVICE": "cuda", "MAGFACE_ENGINE": engine, "CUDA_VISIBLE_DEVICES": ""}
    with EmbedderProcess(embedder_settings, tmp_path, **wish) as process:
        process.launch()
        assert process.wait() == 1
        assert "the embedder cannot start: device cuda was requested" in process.log


def test_torch_is_not_imported_by_the_onnxruntime_engine(tiny_versions):
    script = (
        "import sys; from pathlib import Path; import services.embedder.__main__\n"
        "from shared.model.sessions.factory import open_session, require_device\n"
        "require_device('onnxruntime', 'cpu'); open_session(Path(sys.argv[1]))\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tiny_versions[A])]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
