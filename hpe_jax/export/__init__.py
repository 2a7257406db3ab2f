"""A run as one file that needs none of this code: uint8 photos in, keypoints and scores out.

    python -m hpe_jax.export [--workdir=RUN] --format=stablehlo|onnx|tflite [--output=FOLDER] [--decoder=window]

Normalisation, network, weights and decoder are inside, in float32, for any number of photos. `metadata.json` beside it
describes input and output, the training data and their licence, how to run the file, and how much it differs from the
model: every file is loaded back and compared before it gets its name.
"""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import checkpoint, configuration, files, hand, heatmap, logbook, trained_model
from hpe_jax.data import features
from hpe_jax.errors import UserError
from hpe_jax.export import formats, verify

INPUT = (
    'RGB crops of one right hand each, about square, resized to this size with antialiasing; a left hand must be '
    'mirrored, and the x of its answer with it (1 - x); at least one, but an ONNX file answers none with none'
)
CONVERTED = 'converted from PyTorch; the published ones, whose code is MIT, were trained on FreiHAND'


def export(workdir: str | Path, name: str, output: str | Path = '', decoder: str = '') -> dict:
    """Writes the best checkpoint of a run directory as a file of formats.FORMATS[name], and `metadata.json` beside it.

    To be called where JAX computes on a CPU: accelerators may round to fewer bits than the comparison needs.

    Args:
      output: the folder; '' is `export/<name>` in the run directory.
      decoder: one of config.eval.decoders; '' is config.eval.decoder.

    Returns:
      the content of metadata.json.

    Raises:
      UserError: a package is not installed, the run cannot be loaded, the decoder is unknown, the folder cannot be
        written, or the file cannot be made or differs from the model. No file is left then, or replaced.
    """
    kind, folder = formats.FORMATS[name], Path(output or Path(workdir) / 'export' / name)
    check_installed(name, kind.packages)
    run = trained_model.load(workdir, {'precision': 'float32', 'model.conv': 'xla'})  # nothing that suits one device
    decoder = run.known_decoder(decoder)
    files.check_writable(folder)
    description, size = describe(run, decoder), run.config.data.image_size
    description['made']['versions'] |= {m: importlib.import_module(m).__version__ for m in kind.packages}
    with files.replacing(folder / kind.file) as temporary:
        temporary.write_bytes(make(run, name, decoder, description))
        answer = kind.load(temporary)
        verified = verify.compare(run, decoder, answer)
        order = list(answer(np.zeros((1, size, size, 3), np.uint8)))
        content = temporary.read_bytes()
    description['outputs'] = {output: description['outputs'][output] for output in order}
    metadata = {
        'format': name,
        'file': kind.file,
        'bytes': len(content),
        'sha256': hashlib.sha256(content).hexdigest(),
        'usage': kind.usage,
        'verification': verified,
        **description,
    }
    files.write_json(folder / 'metadata.json', metadata)
    return metadata


def check_installed(name: str, packages: dict[str, str]) -> None:
    """Raises UserError with the command that installs the packages of a format that are missing."""
    missing = []
    for module, package in packages.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(f'exporting to {name} needs {" and ".join(missing)}: pip install {" ".join(missing)}')


def make(run: trained_model.TrainedModel, name: str, decoder: str, description: dict | None = None) -> bytes:
    """The content of a file of formats.FORMATS[name]; ONNX files carry the description, each value as JSON.

    Raises:
      UserError: the converter does not know something that the model is made of.
    """
    kind, config = formats.FORMATS[name], ConfigDict(run.config.to_dict())
    if not kind.gather and 'gather' in inspect.signature(heatmap.DECODERS[decoder]).parameters:
        config.eval.decoders[decoder].gather = False
    infer = trained_model.make_infer(config, run.inference_model, decoder)
    state = nnx.state(run.inference_model)
    try:
        metadata = {key: json.dumps(value) for key, value in (description or {}).items()}
        return kind.make(lambda images: infer(state, images), config.data.image_size, metadata)
    except UserError:
        raise
    except Exception as e:  # TensorFlow's converter raises anything
        reason = str(e).partition('\n')[0]
        raise UserError(f'{name} cannot express this model: {type(e).__name__}, {reason}') from e


HEADS = {
    'presence': 'probability that a hand is in the middle of the crop',
    'handedness': 'probability that it is a right hand: below 0.5, mirror the crop and ask again',
}


def describe(run: trained_model.TrainedModel, decoder: str) -> dict:
    """What metadata.json states of any format."""
    config, size, joints = run.config, run.config.data.image_size, hand.NUM_KEYPOINTS
    heads = {
        name: {'shape': ['batch'], 'dtype': 'float32', 'units': HEADS[name]} for name in trained_model.heads(config)
    }
    return {
        'input': {'name': 'images', 'shape': ['batch', size, size, 3], 'dtype': 'uint8', 'meaning': INPUT},
        'outputs': {
            'keypoints': {
                'shape': ['batch', joints, 2],
                'dtype': 'float32',
                'units': '(x, y), normalised: times the width and height of the crop they are its pixels, where the '
                'centre of the first one is (0.5, 0.5)',
            },
            'scores': {
                'shape': ['batch', joints],
                'dtype': 'float32',
                'units': 'highest value of each heatmap, in [0, 1]; no probability',
            },
            **heads,
        },
        'joints': hand.JOINTS,
        'parents': hand.PARENTS,
        'handedness': 'right',
        'decoder': {'name': decoder, 'codec': config.heatmap.codec, **config.eval.decoders[decoder]},
        'precision': 'float32',
        'run': {
            'name': run.workdir.resolve().name,
            'epoch': run.epoch,
            'model': config.model.to_dict() | {'conv': 'xla'},
            'trained_in': configuration.load(run.workdir).precision,
        },
        'training_data': [training_data(config, meta) for config, meta in ancestors(run)],
        'made': logbook.environment(),
    }


def training_data(config: ConfigDict | None, meta: dict) -> dict:
    """The photos that a run was trained on, and their licence; `config` is None where that is unknown."""
    if config is None:
        return {'dataset': 'unknown', 'licence': f'unknown: {meta["run"]}, which this run started from, is not here'}
    if 'source' in meta:
        return {'dataset': 'freihand', **features.LICENCES['freihand'], 'weights': CONVERTED, **meta['source']}
    live = config.data.source == 'live'
    dataset = f'synthetic_hands/{config.data.live_preset}' if live else config.data.dataset
    names = dict.fromkeys(re.split('[/:]', member.strip())[0] for member in dataset.split(','))
    licences = [features.LICENCES.get(name, {'licence': 'unknown'}) for name in names]
    merged = {key: '; '.join(licence[key] for licence in licences if key in licence) for key in ('licence', 'link')}
    return {'dataset': dataset, **{key: value for key, value in merged.items() if value}}


def ancestors(run: trained_model.TrainedModel) -> Iterator[tuple[ConfigDict | None, dict]]:
    """(config, meta data) of a run, of the run that it started from (config.init_from), and so on."""
    config, seen = run.config, set()
    yield config, run.meta
    while config.init_from and config.init_from not in seen:
        seen.add(config.init_from)
        workdir = trained_model.locate(config.init_from)
        try:
            config, kept = configuration.load(workdir), checkpoint.Checkpoints(workdir, read_only=True)
            yield config, kept.meta(kept.best())
        except Exception:  # orbax raises anything where a checkpoint is absent or corrupt
            yield None, {'run': str(workdir)}
            return
