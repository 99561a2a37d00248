"""Model versions that must never serve, each damaged in a different way."""

import hashlib
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.model.manifest import ONNX_FILE, FileEntry, read_manifest

ONNX_KEY = "models/{version}/model.onnx"


def renamed(folder: Path, to: Path, **changes: object) -> Path:
    """Copy a version's folder under a new name, with changes to its manifest."""
    shutil.copytree(folder, to)
    sealed(to, model_version=to.name, **changes)
    return to


def sealed(folder: Path, **changes: object) -> None:
    """Rewrite the manifest so that its checksums fit the files again."""
    files = {}
    for name in read_manifest(folder).files:
        data = (folder / name).read_bytes()
        files[name] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    read_manifest(folder).model_copy(update={"files": files, **changes}).write(folder)


def garbage(folder: Path, _: Path) -> None:
    (folder / ONNX_FILE).write_bytes(bytes(range(256)) * 100)
    sealed(folder)


def nan_weights(folder: Path, _: Path) -> None:
    network = onnx.load(folder / ONNX_FILE)
    for tensor in network.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32("nan"), tensor.name))
    onnx.save(network, folder / ONNX_FILE)
    sealed(folder)


def endless(folder: Path, _: Path) -> None:
    """Let the network count for ever before it gives its features."""
    _count_first(folder, [], [numpy_helper.from_array(np.array(2**62, np.int64), "turns")])


def endless_on_white_corner(folder: Path) -> None:
    """Let the network count for ever before it gives its features if the first pixel is white."""
    source = onnx.load(folder / ONNX_FILE, load_external_data=False).graph.input[0].name
    turns = [
        helper.make_node("Slice", [source, "zeros", "ones", "axes"], ["corners"]),
        helper.make_node("ReduceMin", ["corners"], ["darkest"], keepdims=0),
        helper.make_node("Greater", ["darkest", "nearly_white"], ["white"]),
        helper.make_node("Cast", ["white"], ["once"], to=TensorProto.INT64),
        helper.make_node("Mul", ["once", "many"], ["turns"]),
    ]
    constants = [
        *(
            numpy_helper.from_array(np.array(value, np.int64), name)
            for name, value in {"zeros": [0, 0], "ones": [1, 1], "axes": [2, 3]}.items()
        ),
        numpy_helper.from_array(np.array(0.99, np.float32), "nearly_white"),
        numpy_helper.from_array(np.array(2**62, np.int64), "many"),
    ]
    _count_first(folder, turns, constants)


def _count_first(
    folder: Path, turns: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> None:
    """Put a loop of so many turns before the network's output."""
    network = onnx.load(folder / ONNX_FILE)
    graph = network.graph
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
    number = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[])
    truth = partial(helper.make_tensor_value_info, elem_type=TensorProto.BOOL, shape=[])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_still"]),
            helper.make_node("Sin", ["count"], ["counted"]),
        ],
        "count",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            truth("go_on"),
            number("count"),
        ],
        [truth("go_on_still"), number("counted")],
    )
    graph.initializer.extend(
        [
            *constants,
            numpy_helper.from_array(np.array(True), "always"),
            numpy_helper.from_array(np.array(0, np.float32), "first"),
        ]
    )
    graph.node.extend(
        [
            *turns,
            helper.make_node("Loop", ["turns", "always", "first"], ["last"], body=body),
            helper.make_node("Add", [f"{output}_before", "last"], [output]),
        ]
    )
    onnx.save(network, folder / ONNX_FILE)
    sealed(folder)


def wrong_size(folder: Path, _: Path) -> None:
    sealed(folder, embedding_size=64)


def golden_mismatch(folder: Path, other: Path) -> None:
    """Give it another version's network."""
    shutil.copy(other / ONNX_FILE, folder / ONNX_FILE)
    sealed(folder)
