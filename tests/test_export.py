"""ONNX files against PyTorch, in onnxruntime and in OpenVINO, at ten sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import CLASSES, TINY, fill, tiny_parts

from instructir_core import Restorer, __version__, checkpoint, cli
from instructir_core import export as exporting
from instructir_core.model import InstructIR

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no export to test")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: no export to test")

SENTENCE = "remove the noise"
SIZES = [(16, 16), (16, 31), (17, 45), (32, 48), (33, 16), (40, 40), (63, 65), (64, 64),
         (81, 50), (97, 112)]  # fmt: skip
LIMITS = {"fp32": 1e-4, "fp16": 1 / 255}
Run = Callable[[np.ndarray], np.ndarray]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(1, 3, H, W) smooth and noisy, in [0, 1]."""
    random = np.random.default_rng(seed)
    rough = torch.from_numpy(random.random((1, 3, 4, 5), np.float32))
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear").numpy()
    noise = random.normal(0, 0.1, smooth.shape).astype(np.float32)
    return np.clip(smooth + noise, 0, 1)


def expected(network: InstructIR, embedding: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """PyTorch's own network on the picture as NumPy mirrors it."""
    height, width = image.shape[-2:]
    multiple = network.config.multiple
    lacking = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
    padded = torch.from_numpy(np.pad(image, lacking, mode="reflect"))
    with torch.inference_mode():
        restored = network(padded, embedding).numpy()
    return np.clip(restored[..., :height, :width], 0, 1)


def in_onnxruntime(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"input": image})[0]


def in_openvino(content: bytes) -> Run:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    return lambda image: compiled(image)[0]


@pytest.fixture(scope="module")
def mini() -> Restorer:
    return Restorer.from_pretrained("mini", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model under a sentence, as the command writes it."""
    folder = tmp_path_factory.mktemp("export")
    paths = {name: folder / f"{name}.onnx" for name in LIMITS}
    for name, path in paths.items():
        half = ["--half"] if name == "fp16" else []
        assert cli.main(["export", "--instruction", SENTENCE, str(path), *half]) == 0
    return paths


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
def test_runtimes_agree_with_pytorch(
    runtime: Callable[[bytes], Run], precision: str, files: dict[str, Path], mini: Restorer
) -> None:
    run = runtime(files[precision].read_bytes())
    embedding = mini.encode(SENTENCE).embedding
    for seed, (height, width) in enumerate(SIZES):
        image = photo(height, width, seed)
        wanted, found = expected(mini.network, embedding, image), run(image)
        assert found.dtype == np.float32 and found.shape == image.shape
        error = np.abs(found - wanted).max()
        assert error <= LIMITS[precision], f"{height} x {width}: {error}"
        # A file that did nothing would not pass.
        assert np.abs(wanted - image).max() > 20 * LIMITS["fp32"]


@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
def test_values_are_clamped_at_both_ends(
    runtime: Callable[[bytes], Run], files: dict[str, Path]
) -> None:
    run = runtime(files["fp32"].read_bytes())
    image = photo(24, 40)
    over = np.where(image > 0.8, image + 3.0, np.where(image < 0.2, image - 3.0, image))
    np.testing.assert_array_equal(run(over.astype(np.float32)), run(np.clip(over, 0, 1)))
    restored = run(image)
    assert restored.min() >= 0.0 and restored.max() <= 1.0


def test_file_says_what_it_is(files: dict[str, Path]) -> None:
    for precision, path in files.items():
        made = onnx.load(path)
        about = {entry.key: entry.value for entry in made.metadata_props}
        assert about["model"] == "mini" and about["instruction"] == SENTENCE
        assert about["task"] == "noise" and about["licence"] == "MIT"
        assert about["version"] == made.producer_version == __version__
        assert about["precision"] == {"fp32": "float32", "fp16": "float16"}[precision]
        assert [(o.domain, o.version) for o in made.opset_import] == [("", 17)]
        for end, name in ((made.graph.input, "input"), (made.graph.output, "output")):
            assert [value.name for value in end] == [name]
            kind = end[0].type.tensor_type
            assert kind.elem_type == onnx.TensorProto.FLOAT
            dims = [d.dim_value or d.dim_param for d in kind.shape.dim]
            assert dims == [1, 3, "height", "width"]
    sizes = {name: path.stat().st_size for name, path in files.items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


def test_shapes_are_known_where_a_size_is_set(files: dict[str, Path]) -> None:
    """vs-mlrt sets the size in the file and reads the output's from the loaded network."""
    import onnxruntime

    made = onnx.load(files["fp32"])
    for axis, size in ((2, 70), (3, 83)):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    made = onnx.shape_inference.infer_shapes(made)
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert session.get_outputs()[0].shape == [1, 3, 70, 83]
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = openvino.Core().read_model(files["fp32"])
    model.reshape([1, 3, 70, 83])
    assert list(model.output().shape) == [1, 3, 70, 83]


def loud(scale: float) -> InstructIR:
    """A network whose feature maps, and what each block adds, are ``scale`` times as large."""
    network = fill(InstructIR(TINY))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("intro.weight", "block.gamma", ".beta")) or (
                name.endswith(".gamma") and "cond" not in name
            ):
                parameter.mul_(scale)
        network.ending.weight.mul_(0.1 / scale)
    return network


def test_averages_hold_where_float16_does_not() -> None:
    """Features whose squares leave float16, computed in float16 to the letter."""
    from onnx.reference import ReferenceEvaluator

    network, embedding = loud(500.0), torch.nn.functional.normalize(torch.ones(1, 256))
    image = photo(18, 21)
    wanted = expected(network, embedding, image)
    seen: list[float] = []
    hook = network.intro.register_forward_hook(lambda *a: seen.append(float(a[2].abs().max())))
    expected(network, embedding, image)
    hook.remove()
    assert seen[0] ** 2 > 65504 > seen[0]

    content = exporting.build(network, embedding, {}, half=True)
    found = ReferenceEvaluator(onnx.load_from_string(content)).run(None, {"input": image})[0]
    assert np.abs(found - wanted).max() <= 1 / 255


def saved(path: Path, network: InstructIR) -> Path:
    _, head, encoder = tiny_parts()
    checkpoint.save(path, network, head, CLASSES, encoder, {"name": path.stem, "licence": "CC0"})
    return path


def test_overflow_is_refused_and_nothing_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = saved(tmp_path / "loud.safetensors", loud(1e6))
    out = tmp_path / "old.onnx"
    out.write_bytes(b"an earlier file")
    arguments = ["export", "--model", str(weights), "-i", SENTENCE, str(out)]
    assert cli.main([*arguments, "--half"]) == 1
    assert "float16" in (message := capsys.readouterr().err) and "without --half" in message
    assert out.read_bytes() == b"an earlier file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loud.safetensors", "old.onnx"]
    assert cli.main(arguments) == 0
    about = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert about["model"] == "loud" and about["licence"] == "CC0"


def test_bad_requests_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, sentence, words in (
        ("out.pt", SENTENCE, "ending in .onnx"),
        ("out.onnx", "  ", "instruction is empty"),
    ):
        assert cli.main(["export", "-i", sentence, str(tmp_path / out)]) == 1
        assert words in capsys.readouterr().err
    for missing in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, missing, None)
        assert cli.main(["export", "-i", SENTENCE, str(tmp_path / "out.onnx")]) == 1
        found = capsys.readouterr().err
        assert missing in found and 'pip install "instructir[export]"' in found
        monkeypatch.undo()
    assert not [*tmp_path.iterdir()]
