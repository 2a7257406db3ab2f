"""Every format, loaded back here by its own runtime, answers as the model does."""

import dataclasses
import functools
import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export
from ml_collections import ConfigDict

from configs import hands
from hpe_jax import export, hand, heatmap, models, trained_model
from hpe_jax.errors import UserError
from hpe_jax.export import formats
from tests import command

pytestmark = pytest.mark.slow

SIZE = 32
PIXEL = 1 / SIZE
NEEDED = {'stablehlo': [], 'onnx': ['onnx', 'onnxruntime'], 'tflite': ['tensorflow', 'ai_edge_litert']}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)


def need(name: str) -> None:
    for package in NEEDED[name]:
        pytest.importorskip(package, reason=f'exporting to {name} needs {package}, which is optional')


def opened(name: str, path: Path) -> Callable:
    """The file as a function, by nothing of hpe_jax."""
    if name == 'stablehlo':
        return jax_export.deserialize(bytearray(path.read_bytes())).call
    if name == 'onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        return lambda images: dict(
            zip(['scores', 'keypoints'], session.run(['scores', 'keypoints'], {'images': images}), strict=True)
        )
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda images: runner(images=images)


@pytest.fixture(scope='module')
def run(tiny_run):
    return trained_model.load(tiny_run)


@pytest.fixture(scope='module')
def expected(run) -> Callable:
    """What the model says of IMAGES."""

    @functools.cache
    def expected(decoder: str, codec: str = 'subpixel') -> dict:
        config = with_fields(run, **{'heatmap.codec': codec}).config
        infer = jax.jit(trained_model.make_infer(config, run.model, decoder))
        return jax.tree.map(np.asarray, infer(nnx.state(run.model), IMAGES))

    return expected


def with_fields(run: trained_model.TrainedModel, meta: dict | None = None, **fields) -> trained_model.TrainedModel:
    config = ConfigDict(run.config.to_dict())
    config.update_from_flattened_dict(fields)
    return dataclasses.replace(run, config=config, meta=run.meta if meta is None else meta)


def assert_agrees(answer: Callable, expected: dict, batches=(1, 3, 8)) -> None:
    for end, number in zip(np.cumsum(batches), batches, strict=True):
        part = slice(end - number, end)
        found = answer(IMAGES[part])
        assert set(found) == {'keypoints', 'scores'}
        np.testing.assert_allclose(found['keypoints'], expected['keypoints'][part], rtol=0, atol=1e-4 * PIXEL)
        np.testing.assert_allclose(found['scores'], expected['scores'][part], rtol=0, atol=1e-5)


def outputs_of(name: str, path: Path) -> list[str]:
    """The names of a file's outputs in its own order; an ONNX file's metadata are those beside it."""
    if name == 'tflite':
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        named = interpreter.get_signature_runner().get_output_details()
        names = {output['index']: key for key, output in named.items()}
        return [names[output['index']] for output in interpreter.get_output_details()]
    if name == 'onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        carried = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
        beside = json.loads((path.parent / 'metadata.json').read_text())
        assert carried and carried == {key: beside[key] for key in carried}
        assert carried.keys() >= {'input', 'joints', 'decoder', 'training_data', 'run'}
        return [output.name for output in session.get_outputs()]
    return ['keypoints', 'scores']  # of a dict in JAX, sorted by name


@pytest.mark.parametrize('name', formats.FORMATS)
def test_a_file_answers_as_its_model_and_says_what_it_is(expected, tiny_run, tmp_path, monkeypatch, name):
    need(name)
    metadata = export.export(tiny_run, name, tmp_path / 'out')
    path = tmp_path / 'out' / metadata['file']
    assert path.name == f'model.{name}' and {p.name for p in path.parent.iterdir()} == {path.name, 'metadata.json'}
    assert_agrees(opened(name, path), expected('window'))
    said = json.loads((path.parent / 'metadata.json').read_text())
    assert said == json.loads(json.dumps(metadata))
    assert said['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest() and said['format'] == name
    assert said['input']['shape'] == ['batch', SIZE, SIZE, 3] and said['outputs']['keypoints']['shape'][1:] == [21, 2]
    assert said['joints'] == list(hand.JOINTS) and said['parents'] == list(hand.PARENTS)
    assert said['decoder'] == {'name': 'window', 'codec': 'subpixel', 'radius': 4.5}
    assert said['run']['name'] == tiny_run.name and said['run']['epoch'] == 3
    assert said['training_data'][0]['dataset'] == 'freihand/raw' and 'research only' in str(said['training_data'])
    verified = said['verification']
    assert 0 <= verified['percentile_99'] <= verified['largest'] < verified['bound'] == 1e-3
    assert said['made']['versions'].keys() >= {'jax', *NEEDED[name]}
    assert list(said['outputs']) == outputs_of(name, path)
    if name == 'onnx':  # it kills the process where its nodes are given nothing
        found = opened(name, path)(IMAGES[:0])
        assert {key: values.shape for key, values in found.items()} == {'keypoints': (0, 21, 2), 'scores': (0, 21)}
    else:
        with pytest.raises((ValueError, RuntimeError)):
            opened(name, path)(IMAGES[:0])
    monkeypatch.chdir(path.parent)
    scope = {'images': IMAGES[:3]}
    exec(said['usage'], scope)  # the lines that a reader of metadata.json will try
    np.testing.assert_allclose(scope['outputs']['keypoints'], expected('window')['keypoints'][:3], atol=1e-4 * PIXEL)


OTHERS = {'mean': 'subpixel', 'softargmax': 'subpixel', 'argmax': 'reference'}


@pytest.mark.parametrize(('decoder', 'codec'), OTHERS.items())
@pytest.mark.parametrize('name', formats.FORMATS)
def test_every_decoder_in_every_format_and_the_codec_of_the_run(run, expected, tmp_path, name, decoder, codec):
    need(name)
    assert OTHERS.keys() | {'window'} == heatmap.DECODERS.keys()  # the window's file is tested above
    run = with_fields(run, **{'heatmap.codec': codec})
    (tmp_path / 'file').write_bytes(export.make(run, name, decoder))
    batches = [3] if name == 'stablehlo' else (1, 3, 8)  # XLA compiles each for seconds
    assert_agrees(opened(name, tmp_path / 'file'), expected(decoder, codec), batches)
    assert 'gather' not in run.config.eval.decoders[decoder]


@pytest.mark.parametrize('name', formats.FORMATS)
def test_the_heads_of_a_network_are_outputs(tmp_path, monkeypatch, name):
    need(name)
    config = hands.get_config()
    config.model.update(widths=(4, 4, 8), blocks=(1,), conv='xla')
    config.data.image_size = SIZE
    run = trained_model.TrainedModel(tmp_path, config, 0, models.make(config), {'history': []})
    kind = formats.FORMATS[name]
    (tmp_path / kind.file).write_bytes(export.make(run, name, 'window'))
    infer = jax.jit(trained_model.make_infer(config, run.model, 'window'))
    expected = jax.tree.map(np.asarray, infer(nnx.state(run.model), IMAGES[:3]))
    assert expected.keys() == {'keypoints', 'scores', 'presence', 'handedness'}
    monkeypatch.chdir(tmp_path)
    scope = {'images': IMAGES[:3]}
    exec(kind.usage, scope)
    found = scope['outputs']
    assert set(found) == expected.keys()
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=0, atol=1e-5, err_msg=output)
    assert np.ptp(found['presence']) > 0 and found['handedness'].shape == (3,)


def test_a_stablehlo_file_is_for_accelerators_too(run):
    exported = jax_export.deserialize(bytearray(export.make(run, 'stablehlo', 'window')))
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    assert str(exported.in_avals[0]) == 'uint8[batch,32,32,3]'


def test_a_bfloat16_run_goes_into_its_own_folder_in_float32(expected, tiny_run, tmp_path):
    need('onnx')
    workdir = shutil.copytree(tiny_run, tmp_path / 'run')
    config = json.loads((workdir / 'config.json').read_text())
    (workdir / 'config.json').write_text(json.dumps(config | {'precision': 'bfloat16'}))
    metadata = export.export(workdir, 'onnx', decoder='mean')
    assert metadata['precision'] == 'float32' and metadata['run']['trained_in'] == 'bfloat16'
    assert metadata['decoder']['name'] == 'mean'
    assert_agrees(opened('onnx', workdir / 'export/onnx/model.onnx'), expected('mean'))


@pytest.mark.parametrize(
    'change',
    [
        lambda said: said | {'keypoints': said['keypoints'] + 2e-3 * PIXEL},
        lambda said: said | {'keypoints': said['keypoints'][..., ::-1]},
        lambda said: said | {'scores': said['scores'] + 2e-4},
        lambda said: said | {'scores': said['scores'] * np.nan},
    ],
)
def test_a_file_that_does_not_agree_is_not_kept(tiny_run, tmp_path, monkeypatch, change):
    need('onnx')
    kind = formats.FORMATS['onnx']

    def load(path):
        answer = kind.load(path)
        return lambda images: change(answer(images))

    monkeypatch.setitem(formats.FORMATS, 'onnx', dataclasses.replace(kind, load=load))
    (tmp_path / 'model.onnx').write_text('an earlier one')
    with pytest.raises(UserError, match='the file differs from the model, so it is not kept: '):
        export.export(tiny_run, 'onnx', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']
    assert (tmp_path / 'model.onnx').read_text() == 'an earlier one'


@pytest.mark.parametrize(
    ('absent', 'name', 'command'),
    [
        (['onnx', 'onnxruntime'], 'onnx', 'needs onnx and onnxruntime: pip install onnx onnxruntime'),
        (['onnxruntime'], 'onnx', 'needs onnxruntime: pip install onnxruntime'),
        (['ai_edge_litert'], 'tflite', 'needs ai-edge-litert: pip install ai-edge-litert'),
    ],
)
def test_an_absent_package_is_told_with_the_command_that_installs_it(tiny_run, monkeypatch, absent, name, command):
    need(name)
    for package in absent:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f'^exporting to {name} {command}$'):
        export.export(tiny_run, name)


def test_what_a_converter_cannot_express_is_told(run, monkeypatch):
    def make(function, size, metadata):
        raise RuntimeError('no such operator\nand a long trace')

    monkeypatch.setitem(formats.FORMATS, 'tflite', dataclasses.replace(formats.FORMATS['tflite'], make=make))
    with pytest.raises(UserError) as told:
        export.make(run, 'tflite', 'window')
    assert str(told.value) == 'tflite cannot express this model: RuntimeError, no such operator'


def test_the_licence_is_that_of_the_photos_of_a_run_and_of_those_before_it(run, tiny_run, monkeypatch):
    def data(*arguments, **fields):
        return export.describe(with_fields(run, *arguments, **fields), 'window')['training_data']

    rendered = {'data.dataset': 'synthetic_hands/studio'}
    (one,) = data(**rendered)
    assert one['dataset'] == 'synthetic_hands/studio' and 'CC0' in one['licence'] and one['licence'].startswith('free')
    (one,) = data(**{'data.source': 'live', 'data.live_preset': 'full'})
    assert one['dataset'] == 'synthetic_hands/full'
    (one,) = data({'source': {'file': 'model_final.pth', 'sha256': '5e0e'}}, **rendered)
    assert one['dataset'] == 'freihand' and 'no commercial use' in one['licence'] and 'MIT' in one['weights']
    tuned, start = data(**rendered, init_from=str(tiny_run))
    assert tuned['dataset'] == 'synthetic_hands/studio' and start['dataset'] == 'freihand/raw'
    assert 'cite Zimmermann' in start['licence'] and start['link'].startswith('https://lmb')
    (one,) = data(**{'data.dataset': 'freihand/raw:2, coco_hands:0.5,freihand/full'})
    assert one['licence'].startswith('research only') and "; unknown: the user's own photos" in one['licence']
    assert one['licence'].count('Zimmermann') == 1
    monkeypatch.setattr(trained_model, 'WEIGHTS', tiny_run.parent)
    (_, start) = data(**rendered, init_from=tiny_run.name)
    assert start['dataset'] == 'freihand/raw'
    tuned, start = data(**rendered, init_from='/no/such/run')
    assert start['licence'] == 'unknown: /no/such/run, which this run started from, is not here'


def call(*arguments: str) -> None:
    sys.argv = ['export.py', *map(str, arguments)]
    runpy.run_module('hpe_jax.export', run_name='__main__')


@pytest.fixture
def export_command(tmp_path) -> Callable:
    """`python -m hpe_jax.export` -> (exit status, stdout, stderr)."""

    def start(*arguments):
        process = command.start(tmp_path / 'printed', call, *arguments)
        process.join()
        return process.exitcode, *((tmp_path / 'printed' / name).read_text() for name in ('stdout', 'stderr'))

    return start


def test_the_command(tiny_run, tmp_path, export_command):
    need('onnx')
    status, out, err = export_command(f'--workdir={tiny_run}', '--format=onnx', f'--output={tmp_path / "out"}')
    assert status == 0, err
    assert f'{tmp_path / "out/model.onnx"}: 0.' in out and 'keypoints by at most ' in out
    assert (tmp_path / 'out/metadata.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workdir=RUN'], '--format'),
        (['--workdir=RUN', '--format=pdf'], 'stablehlo|onnx|tflite'),
        (['--workdir=/no/such/run', '--format=stablehlo'], 'error: /no/such/run is no run directory'),
        (
            ['--workdir=RUN', '--format=stablehlo', '--decoder=best'],
            "error: decoder 'best': unknown to this run; choose",
        ),
        (['--workdir=RUN', '--format=stablehlo', '--output=RUN/config.json'], 'error: cannot write '),
        (['--workdir=RUN', '--format=stablehlo', 'more'], 'error: unexpected argument: more'),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(tiny_run, export_command, arguments, message):
    status, out, err = export_command(*(argument.replace('RUN', str(tiny_run)) for argument in arguments))
    assert status != 0 and message in err and 'Traceback' not in err
    assert not (tiny_run / 'export').exists()
