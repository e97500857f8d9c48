"""The table of formats that a whole model can be written in, and run from by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluate.export.whole_model import Pixels, WholeModel

    Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits and probabilities, [N, C]

INPUT, OUTPUTS = "images", ("logits", "probabilities")
NOTES = "frostline.json"  # in a torch file, what the other formats have places for

Facts = dict[str, str]  # what a file says of itself; what is no text, as JSON


@dataclass(frozen=True)
class Format:
    """A file format of whole models.

    Attributes:
        suffix: Of its files.
        packages: To write and to run it.
        write: A model, with what it says of itself.
        run: Such a file in its own runtime.
        snippet: How to do that, as Python: one import, then what makes `classes`, `logits` and
            `probabilities` of `images`; FILE stands for its name.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[WholeModel, Path, Facts], None]
    run: Callable[[Path, Sequence[Pixels]], list[Answers]]
    snippet: str


def _write_onnx(model: WholeModel, path: Path, facts: Facts) -> None:
    import onnx
    import torch

    from extract.imaging.decode import SIZE

    # The newer exporter (dynamo=True) needs one more package, takes eight times as long, and fails
    # at knn's votes (torch 2.9.1).
    torch.onnx.export(
        model,
        (torch.zeros((1, 1, SIZE, SIZE), dtype=torch.uint8),),
        str(path),
        dynamo=False,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_axes={name: {0: "n"} for name in (INPUT, *OUTPUTS)},
    )
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, path)


def _run_onnx(path: Path, batches: Sequence[Pixels]) -> list[Answers]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [session.run(list(OUTPUTS), {INPUT: images}) for images in batches]


def _write_openvino(model: WholeModel, path: Path, facts: Facts) -> None:
    from extract.backends.openvino import convert, import_openvino

    graph = convert(model)
    graph.input(0).set_names({INPUT})
    for number, name in enumerate(OUTPUTS):
        graph.output(number).set_names({name})
    for key, value in facts.items():
        graph.set_rt_info(value, ["frostline", key])
    import_openvino().save_model(graph, path, compress_to_fp16=False)


def _run_openvino(path: Path, batches: Sequence[Pixels]) -> list[Answers]:
    from extract.backends.openvino import openvino_core

    core = openvino_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    results = [compiled(images) for images in batches]
    return [(result[OUTPUTS[0]], result[OUTPUTS[1]]) for result in results]


def _write_torch(model: WholeModel, path: Path, facts: Facts) -> None:
    import torch

    from extract.imaging.decode import SIZE

    images = torch.zeros((2, 1, SIZE, SIZE), dtype=torch.uint8)
    any_number = torch.export.Dim("n", min=1)
    program = torch.export.export(model, (images,), dynamic_shapes={INPUT: {0: any_number}})
    program.example_inputs = None  # it would be a pickle, the only one in the file
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    torch.export.save(program, path, extra_files={NOTES: json.dumps(facts)})


def _run_torch(path: Path, batches: Sequence[Pixels]) -> list[Answers]:
    import torch

    module = torch.export.load(path).module()
    with torch.inference_mode():
        results = [module(torch.from_numpy(images)) for images in batches]
    return [(logits.numpy(), probabilities.numpy()) for logits, probabilities in results]


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx",
        ("onnx", "onnxruntime"),
        _write_onnx,
        _run_onnx,
        """import onnxruntime
session = onnxruntime.InferenceSession(FILE)
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
logits, probabilities = session.run(None, {"images": images})""",
    ),
    "openvino": Format(
        ".xml",
        ("openvino",),
        _write_openvino,
        _run_openvino,
        """import openvino
model = openvino.Core().read_model(FILE)
classes = json.loads(model.get_rt_info(["frostline", "classes"]).value)
fp32 = {"INFERENCE_PRECISION_HINT": "f32"}
logits, probabilities = openvino.compile_model(model, "CPU", fp32)(images).values()""",
    ),
    "torch": Format(
        ".pt2",
        (),
        _write_torch,
        _run_torch,
        """import torch
notes = {"frostline.json": ""}
model = torch.export.load(FILE, extra_files=notes).module()
classes = json.loads(json.loads(notes["frostline.json"])["classes"])
logits, probabilities = model(torch.from_numpy(images))""",
    ),
}
