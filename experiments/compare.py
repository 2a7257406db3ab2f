"""Several models on the same crops of the same photos: one table, with times.

    python -m experiments.compare --dataset=coco_hands --manual_dir=FOLDER [--split=test] [--output=runs/compare] \\
        --models=hands,runs/x,model_final.pth,mediapipe

A model is a run directory, the name of a shipped one, a .pth file of the published PyTorch network, or `mediapipe` (see
mediapipe_hands.py). --split=all takes every split. Left hands are mirrored to right ones for every model. Each resizes
the crop to its own size and decodes as its config has it. `ms` is the median time of one crop, from its pixels to
keypoints, of TIMED after one to warm up. Writes OUTPUT/compare.json.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from configs import published, unet
from experiments.mediapipe_hands import MediaPipe
from hpe_jax import configuration, files, geometry, logbook, metrics, torch_weights, trained_model
from hpe_jax.data import prepared
from hpe_jax.errors import UserError

TIMED = 20  # crops
COLUMNS = ('nme_box', 'pck@0.2_box', 'pck@0.05_image', 'error_pct', 'epe_px224', 'auc_0_30px224')
DATA = ('dataset', 'manual_dir', 'data_dir', 'joints', 'handedness', 'relative_hand_size')

Predict = Callable[[Sequence[UInt8[np.ndarray, 'h w 3']]], Float[np.ndarray, 'n 21 2']]


def load(name: str) -> Predict:
    """The function of crops to keypoints, normalised, of a model as `--models` names it.

    Raises:
      UserError: there is no such model, or it cannot be used.
    """
    if name == 'mediapipe':
        return MediaPipe().predict
    if name.endswith('.pth'):
        with tempfile.TemporaryDirectory() as folder:
            torch_weights.convert(name, f'{folder}/run', published.get_config())
            run = trained_model.load(f'{folder}/run')
    else:
        run = trained_model.load(trained_model.locate(name))
    return lambda images: run.predict(images).keypoints


def score(predict: Predict, split: prepared.Split) -> dict:
    """metrics.compute's dict on a split with its photos encoded, and `ms`."""
    images = [split.image(i) for i in range(len(split))]
    keypoints = np.concatenate([predict(images[i : i + 32]) for i in tqdm(range(0, len(images), 32), disable=None)])
    distance = metrics.distances(keypoints, split.keypoints)
    box = geometry.box_side(split.keypoints, split.visible)
    predict(images[:1])
    times = []
    for image in images[:TIMED]:
        began = time.perf_counter()
        predict([image])
        times.append(time.perf_counter() - began)
    return metrics.compute(distance, split.visible, box, split.side) | {'ms': 1000 * float(np.median(times))}


def compare(names: Sequence[str], data: ConfigDict, split: str) -> dict:
    """What the JSON holds: the scores of each model by its name, and what they were made of.

    data: config.data of one data set.

    Raises:
      UserError: the data or a model cannot be used, or the split holds no photos.
    """
    models = {name: load(name) for name in names}
    photos = prepared.load(prepared.open_dataset(data), split)
    if not len(photos):
        raise UserError(f'split {split!r} of {data.dataset} holds no photos')
    scores = {name: score(predict, photos) for name, predict in models.items()}
    about = {'dataset': data.dataset, 'manual_dir': data.manual_dir, 'split': split, 'num_images': len(photos)}
    return {**about, 'models': scores, **logbook.environment()}


def table(scores: Mapping[str, Mapping]) -> str:
    """Markdown, a row a model."""
    columns = [name for name in (*COLUMNS, 'epe_px_original', 'ms') if name in next(iter(scores.values()))]
    rows = [['model', *columns], ['---'] + ['---:'] * len(columns)]
    rows += [[name, *(f'{of[column]:.3f}' for column in columns)] for name, of in scores.items()]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    config = unet.get_config()
    config.data.update({name: values[name].value for name in DATA})
    configuration.check(config)
    split = 'train+validation+test' if values.split == 'all' else values.split
    files.check_writable(values.output)
    result = compare(values.models, config.data, split)
    files.write_json(Path(values.output) / 'compare.json', result)
    print(f'\n{result["num_images"]} images of {result["dataset"]}, {split}\n\n{table(result["models"])}')


def define_flags() -> None:
    data = unet.get_config().data
    for name in DATA:
        define = flags.DEFINE_float if isinstance(data[name], float) else flags.DEFINE_string
        define(name, data[name], f'As config.data.{name}.')
    flags.DEFINE_list('models', ['hands'], 'Run directories, names of shipped ones, .pth files, or mediapipe.')
    flags.DEFINE_string('split', 'test', 'A TFDS split, or all.')
    flags.DEFINE_string('output', 'runs/compare', 'Folder to write into.')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax logs the tracebacks of what is said in one sentence below
    define_flags()
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
