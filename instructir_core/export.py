"""The network under one sentence as an ONNX file, for programs that bring no PyTorch.

``input`` and ``output`` are (1, 3, height, width) RGB float32 in [0, 1]; any size from
``config.multiple`` (16) pixels, mirrored inside to what the network takes and cropped back. The
sentence is read once and folded into the weights, so that the file needs no text encoder. The
arithmetic is that of `InstructIR.forward`, folded as in `bounded`; what is left to a runtime are
operators of opset 17 that every one has.
"""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checkpoint, official
from .files import write_atomically
from .instruction import Instruction
from .model import InstructionBlock, InstructIR, LayerNorm2d, NAFBlock
from .pipeline import Restorer

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

OPSET = 17
"""onnxruntime from 1.13 (2022) and OpenVINO from 2023 on take it."""
IR_VERSION = 8
"""The file format of that opset's time; the onnx package's own default shuts older readers out."""
TOLERANCE = {"float32": 1e-4, "float16": 1 / 255}
"""Largest difference from PyTorch that a written file has shown, on a scale of 0 to 1."""


def export(
    out: str | os.PathLike[str],
    sentence: str,
    *,
    model: str | os.PathLike[str] = "mini",
    head: str | os.PathLike[str] | None = None,
    text_encoder: str | os.PathLike[str] | None = None,
    half: bool = False,
) -> Instruction:
    """Write ``model`` under a sentence to an ``.onnx`` file; returns the sentence as it was read.

    ``half`` stores and computes in float16, but for the averages; input and output stay float32.
    The file is compared with PyTorch in onnxruntime before it is written. Raises OSError where a
    package is missing or a file cannot be read or written, and ValueError on another suffix, an
    empty sentence, or weights that the precision does not hold.
    """
    out = Path(out)
    if out.suffix.lower() != ".onnx" or out.is_dir():
        raise ValueError(f"{out}: expected a file ending in .onnx. Choose another output name.")
    _packages()
    restorer = Restorer.from_pretrained(model, head=head, text_encoder=text_encoder, device="cpu")
    instruction = restorer.encode(sentence)
    precision = "float16" if half else "float32"
    described = {
        "name": f"InstructIR {restorer.name}",
        "model": restorer.name,
        "instruction": instruction.text,
        "task": instruction.task,
        "precision": precision,
        "layout": "NCHW, RGB, float32 in [0, 1], clamped; any size from "
        f"{restorer.network.config.multiple} pixels",
        "licence": _licence(official.named_path(model)),
        "paper": "Conde, Geigle and Timofte, InstructIR, ECCV 2024",
    }
    content = build(restorer.network, instruction.embedding, described, half=half)
    _check(content, restorer.network, instruction.embedding, precision)
    write_atomically(out, content)
    return instruction


def _packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime, which only this command needs."""
    try:
        import onnx
        import onnxruntime
    except ImportError as exc:
        raise OSError(
            f"Exporting needs the package {exc.name}, which restoring does not. Install it with: "
            'pip install "instructir[export]"'
        ) from exc
    return onnx, onnxruntime


def _licence(weights: Path) -> str:
    if weights == official.MINI_FILE:
        return "MIT"
    stated = checkpoint.load(weights).provenance.get("licence")
    return str(stated or "not stated in the weight file; that of the weights applies")


def build(
    network: InstructIR, embedding: Tensor, described: dict[str, str], *, half: bool = False
) -> bytes:
    """The ONNX file of a network under one (1, 256) embedding; ``described`` is its metadata."""
    onnx, _ = _packages()
    from . import __version__

    graph = _Graph(onnx, half)
    with torch.no_grad():
        _network(graph, network.float(), embedding)
    shape = [1, 3, "height", "width"]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("input", "output")
    ]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "instructir", ends[:1], ends[1:], graph.weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="instructir",
        producer_version=__version__,
        doc_string="; ".join(f"{key}: {value}" for key, value in described.items()),
    )
    onnx.helper.set_model_props(made, {**described, "version": __version__})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


class _Graph:
    """Nodes in order, each named after its only result, and the weights they use.

    With ``half`` weights are float16; `wide` and `narrow` mark where sums leave it and return.
    """

    def __init__(self, onnx: Any, half: bool) -> None:
        self.onnx, self.half = onnx, half
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns the name of its result."""
        name = f"{operator}_{len(self.nodes)}"
        node = self.onnx.helper.make_node(operator, inputs, [name], name, **attributes)
        self.nodes.append(node)
        return name

    def weight(self, values: Tensor, *, wide: bool = False) -> str:
        """A constant, in the graph's precision or, where ``wide``, as float32."""
        values = values.detach().to(torch.float16 if self.half and not wide else torch.float32)
        return self._constant(values.contiguous().numpy())

    def scalar(self, value: float) -> str:
        """A float32 constant."""
        return self.weight(torch.tensor(value), wide=True)

    def whole(self, *values: int) -> str:
        """A list of int64 as a constant."""
        return self._constant(np.array(values, np.int64))

    def _constant(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def wide(self, x: str) -> str:
        """The same as float32."""
        return self.add("Cast", x, to=self.onnx.TensorProto.FLOAT) if self.half else x

    def narrow(self, x: str) -> str:
        """The same in the graph's precision."""
        return self.add("Cast", x, to=self.onnx.TensorProto.FLOAT16) if self.half else x

    def conv(self, x: str, weight: Tensor, bias: Tensor | None, **attributes: Any) -> str:
        """A convolution by a (D, C, k, k) weight, or 1x1 by a (D, C) weight."""
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        constants = [self.weight(w) for w in (weight, bias) if w is not None]
        return self.add("Conv", x, *constants, **attributes)


def _network(graph: _Graph, network: InstructIR, embedding: Tensor) -> None:
    """``output = clamp(forward(mirrored(clamp(input))))``, cropped."""
    low, high = graph.scalar(0.0), graph.scalar(1.0)
    size = graph.add("Shape", "input", start=2)
    lacking = graph.add("Mod", graph.add("Neg", size), graph.whole(network.config.multiple))
    pads = graph.add("Concat", graph.whole(0, 0, 0, 0, 0, 0), lacking, axis=0)
    image = graph.add("Pad", graph.add("Clip", "input", low, high), pads, mode="reflect")

    x = _conv3x3(graph, graph.narrow(image), network.intro)
    skips = []
    for encoder, condition, down in zip(
        network.encoders, network.enc_cond, network.downs, strict=True
    ):
        assert isinstance(down, nn.Conv2d)
        x = _condition(graph, _blocks(graph, x, encoder), condition, embedding)
        skips.append(x)
        x = graph.conv(x, down.weight, down.bias, strides=[2, 2])
    x = _blocks(graph, x, network.middle_blks)
    for up, decoder, condition in zip(network.ups, network.decoders, network.dec_cond, strict=True):
        widen = next(up.children())
        assert isinstance(widen, nn.Conv2d)
        x = graph.conv(x, widen.weight, None)
        x = graph.add("DepthToSpace", x, blocksize=2, mode="CRD")
        x = _blocks(graph, graph.add("Add", x, skips.pop()), decoder)
        x = _condition(graph, x, condition, embedding)
    # In float32 again: what is left of a picture that hardly changes is not rounded to float16.
    x = graph.add("Add", graph.wide(_conv3x3(graph, x, network.ending)), image)
    x = graph.add("Clip", x, low, high)
    x = graph.add("Slice", x, graph.whole(0, 0), size, graph.whole(2, 3))
    graph.nodes[-1].output[0] = "output"


def _conv3x3(graph: _Graph, x: str, conv: nn.Conv2d) -> str:
    return graph.conv(x, conv.weight, conv.bias, pads=[1, 1, 1, 1])


def _blocks(graph: _Graph, x: str, blocks: nn.Module) -> str:
    for block in blocks.children():
        assert isinstance(block, NAFBlock)
        x = _block(graph, x, block)
    return x


def _condition(graph: _Graph, x: str, condition: nn.Module, embedding: Tensor) -> str:
    """The instruction block; of the sentence one scale and one shift per channel are left."""
    assert isinstance(condition, InstructionBlock)
    gate = torch.sigmoid(condition.fc(embedding))[:, :, None, None]
    steered = graph.add("Mul", x, graph.weight(condition.gamma * gate))
    steered = graph.add("Add", steered, graph.weight(condition.beta * gate))
    return graph.add("Add", _block(graph, steered, condition.block), x)


def _block(graph: _Graph, x: str, block: NAFBlock) -> str:
    weight, bias = _with_affine(block.norm1, block.conv1)
    assert block.conv2.bias is not None and block.conv3.bias is not None
    assert block.conv5.bias is not None

    normed = _normed(graph, x, len(block.norm1.weight))
    halves = []
    # The two halves of the gate as two paths: no runtime has to split a map.
    for rows in (slice(0, len(weight) // 2), slice(len(weight) // 2, None)):
        y = graph.conv(normed, weight[rows], bias[rows])
        depthwise, shift = block.conv2.weight[rows], block.conv2.bias[rows]
        halves.append(graph.conv(y, depthwise, shift, pads=[1] * 4, group=len(depthwise)))
    y = graph.add("Mul", *halves)
    y = graph.add("Mul", y, _attention(graph, y, block.sca[1]))
    beta, gamma = block.beta.flatten(), block.gamma.flatten()
    y = graph.conv(y, block.conv3.weight.flatten(1) * beta[:, None], block.conv3.bias * beta)
    x = graph.add("Add", x, y)

    weight, bias = _with_affine(block.norm2, block.conv4)
    normed = _normed(graph, x, len(block.norm2.weight))
    half = len(weight) // 2
    halves = [graph.conv(normed, weight[:half], bias[:half]),
              graph.conv(normed, weight[half:], bias[half:])]  # fmt: skip
    y = graph.add("Mul", *halves)
    y = graph.conv(y, block.conv5.weight.flatten(1) * gamma[:, None], block.conv5.bias * gamma)
    return graph.add("Add", x, y)


def _attention(graph: _Graph, y: str, conv: nn.Module) -> str:
    """A factor per channel from the average over the picture, which float16 could not sum."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    mean = graph.add("ReduceMean", graph.wide(y), axes=[2, 3], keepdims=1)
    weight, bias = graph.weight(conv.weight, wide=True), graph.weight(conv.bias, wide=True)
    return graph.narrow(graph.add("Conv", mean, weight, bias))


def _normed(graph: _Graph, x: str, channels: int) -> str:
    """Mean 0 and variance 1 over the channels, in float32: squares leave float16 from 256 on.

    The averages are 1x1 convolutions, which took a third less time than ``ReduceMean`` in
    onnxruntime, and less than ``LayerNormalization`` between two transposes in OpenVINO.
    """
    x = graph.wide(x)
    average = graph.weight(torch.full((1, channels, 1, 1), 1.0 / channels), wide=True)
    centred = graph.add("Sub", x, graph.add("Conv", x, average))
    variance = graph.add("Conv", graph.add("Mul", centred, centred), average)
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.scalar(1e-6)))
    return graph.narrow(graph.add("Div", centred, deviation))


def _with_affine(norm: LayerNorm2d, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """(2C, C) weight and (2C,) bias of a 1x1 convolution that takes the norm's affine with it."""
    assert conv.bias is not None
    weight = conv.weight.flatten(1)
    return weight * norm.weight, conv.bias + weight @ norm.bias


def _check(content: bytes, network: InstructIR, embedding: Tensor, precision: str) -> None:
    """Raise ValueError unless onnxruntime agrees with PyTorch on a picture of an odd size."""
    _, onnxruntime = _packages()
    seeded = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 5, 6, generator=seeded), (69, 83), mode="bilinear")
    picture = (smooth + 0.1 * torch.randn(1, 3, 69, 83, generator=seeded)).clamp(0.0, 1.0)
    height, width = picture.shape[-2:]
    multiple = network.config.multiple
    padded = F.pad(picture, (0, -width % multiple, 0, -height % multiple), "reflect")
    with torch.inference_mode():
        expected = network(padded, embedding)
        # onnxruntime computes float16 on a CPU in float32 and would not see an overflow.
        if (
            precision == "float16"
            and not torch.isfinite(
                copy.deepcopy(network).half()(padded.half(), embedding.half())
            ).all()
        ):
            raise ValueError(
                "Found values between the layers that float16 cannot hold; expected less than "
                "65504. Nothing was written. Export without --half."
            )
    expected = expected[..., :height, :width].clamp(0.0, 1.0).numpy()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": picture.numpy()})[0]
    error = float(np.abs(found - expected).max())
    if not error <= TOLERANCE[precision]:
        remedy = "Export without --half." if precision == "float16" else "Update onnxruntime."
        raise ValueError(
            f"Found a difference of {error:.2g} between the {precision} file and PyTorch; expected "
            f"{TOLERANCE[precision]:.2g} at most, so nothing was written. {remedy}"
        )
    log.info("checked in onnxruntime: differs from PyTorch by %.1e", error)
