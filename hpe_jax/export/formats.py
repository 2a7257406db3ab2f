"""The formats of an export: how a function of photos becomes a file, and is run from it again.

The function takes `images` (batch, size, size, 3) uint8 and returns a dict of float32 arrays; `batch` is any number.
Packages that only one format needs are optional, and imported where they are used.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # TensorFlow reads them when it is imported
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import jax
import numpy as np
from jax import export

from hpe_jax.export.jaxpr import BATCH

PLATFORMS = ('cpu', 'cuda', 'tpu')  # that a StableHLO file runs on

Answer = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Format:
    """make: (function, size, metadata) -> the content of a file, with the metadata where the format has a place for it.
    load: the file -> the function, whose answers are in the order of the file's outputs.

    usage: Python that makes `outputs` of `images` where the file lies, without this project.
    packages: {module: what pip calls it}, all that make and load import beyond requirements that are always there.
    gather: whether the converter knows how to look values up, see heatmap.window.
    """

    file: str
    make: Callable[..., bytes]
    load: Callable[[Path], Answer]
    usage: str
    packages: dict[str, str]
    gather: bool


def make_stablehlo(function: Callable, size: int, metadata: Mapping[str, str] | None = None) -> bytes:
    images = jax.ShapeDtypeStruct(export.symbolic_shape(f'{BATCH}, {size}, {size}, 3'), np.uint8)
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def load_stablehlo(path: Path) -> Answer:
    return export.deserialize(bytearray(path.read_bytes())).call


def make_onnx(function: Callable, size: int, metadata: Mapping[str, str] | None = None) -> bytes:
    from hpe_jax.export import to_onnx

    return to_onnx.convert(function, size, metadata)


def load_onnx(path: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {'images': images}), strict=True))


def make_tflite(function: Callable, size: int, metadata: Mapping[str, str] | None = None) -> bytes:
    from hpe_jax.export import to_tflite

    return to_tflite.convert(function, size)


def load_tflite(path: Path) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner()  # it resizes its input to the batch
    order = [output['index'] for output in interpreter.get_output_details()]
    outputs = runner.get_output_details()
    names = sorted(outputs, key=lambda name: order.index(outputs[name]['index']))

    def answer(images):
        answers = runner(images=images)
        return {name: answers[name] for name in names}

    return answer


FORMATS = {
    'stablehlo': Format(
        file='model.stablehlo',
        make=make_stablehlo,
        load=load_stablehlo,
        usage='from pathlib import Path\n'
        'from jax import export\n'
        "content = bytearray(Path('model.stablehlo').read_bytes())\n"
        'outputs = export.deserialize(content).call(images)  # on cpu, cuda or tpu\n',
        packages={},
        gather=True,
    ),
    'onnx': Format(
        file='model.onnx',
        make=make_onnx,
        load=load_onnx,
        usage='import onnxruntime\n'
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        'names = [output.name for output in session.get_outputs()]\n'
        "outputs = dict(zip(names, session.run(names, {'images': images})))\n",
        packages={'onnx': 'onnx', 'onnxruntime': 'onnxruntime'},
        gather=False,
    ),
    'tflite': Format(
        file='model.tflite',
        make=make_tflite,
        load=load_tflite,
        usage='from ai_edge_litert.interpreter import Interpreter\n'
        "runner = Interpreter('model.tflite').get_signature_runner()  # it resizes its input to the batch\n"
        'outputs = runner(images=images)\n',
        packages={'tensorflow': 'tensorflow', 'ai_edge_litert': 'ai-edge-litert'},
        gather=False,
    ),
}
