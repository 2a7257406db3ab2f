"""What a few labelled crops of another domain bring: the shipped model fine-tuned on rendered hands in gloves.

    python -m experiments.fine_tuning [--output=runs/fine_tuning] [--crops=10,50,200] [--config.FIELD=VALUE ...]

Renders hands that no training saw, in gloves of one colour each, and writes them as COCO keypoint JSON. Each number of
crops is trained on by configs/finetune.py from config.init_from, and all are scored on the same TEST hands. Writes
OUTPUT/fine_tuning.json and prints a table. Finished runs are kept when the command is given again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict, config_flags
from PIL import Image
from tqdm import tqdm

from experiments import compare
from hpe_jax import configuration, files, hand, logbook, runtime, train, trained_model
from hpe_jax.data import prepared
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError

SEED = 123_456_789  # prepared sets have small ones
TEST = 200  # hands
SIZE = 224  # of the images, pixels
NAMES = ('nme_box', 'pck@0.2_box', 'error_pct')


def in_glove(
    image: UInt8[np.ndarray, 'h w 3'], mask: Bool[np.ndarray, 'h w'], rng: np.random.Generator
) -> UInt8[np.ndarray, 'h w 3']:
    """Hand and arm in one strong colour, as light or dark in each place as they were."""
    colour = np.full(3, 0.15)
    colour[rng.permutation(3)[:2]] = rng.uniform(0.3, 1), 1
    luma = image @ np.array([0.299, 0.587, 0.114])
    glove = 110 * luma[..., None] / max(luma[mask].mean(), 1) * colour if mask.any() else image
    return np.uint8(np.where(mask[..., None], glove, image).clip(0, 255))


def write_images(folder: Path, num_images: int) -> list[Float[np.ndarray, '21 2']]:
    """Writes hands in gloves, 0.png and so on, and returns their keypoints in pixels; those that are there stay."""
    kept = folder / 'keypoints.json'
    if kept.exists() and len(keypoints := json.loads(kept.read_text())) >= num_images:
        return [np.array(one) for one in keypoints]
    render, keypoints = generate.renderer('full', SEED, SIZE), []
    for start in tqdm(range(0, num_images, generate.CHUNK), 'Rendering hands in gloves', disable=None):
        samples = render(np.arange(start, start + generate.CHUNK))
        for i, (image, mask) in enumerate(zip(np.asarray(samples.image), np.asarray(samples.mask), strict=True), start):
            with files.replacing(folder / f'{i}.png') as temporary:
                Image.fromarray(in_glove(image, mask, np.random.default_rng((SEED, i)))).save(temporary)
        keypoints += list(np.asarray(samples.uv, np.float64))
    files.write_json(kept, [one.tolist() for one in keypoints])
    return keypoints


def write_coco(path: Path, images: Path, keypoints: Sequence[Float[np.ndarray, '21 2']], start: int) -> None:
    """COCO keypoint JSON of the hands in `images` from number `start` on."""
    listed, labels = [], []
    for i, points in enumerate(keypoints, start):
        x, y, width, height = *points.min(0).tolist(), *np.ptp(points, axis=0).tolist()
        listed.append({'id': i, 'file_name': str((images / f'{i}.png').resolve()), 'width': SIZE, 'height': SIZE})
        labels.append({'id': i, 'image_id': i, 'category_id': 1, 'bbox': [x, y, width, height]})
        labels[-1] |= {'keypoints': [c for point in points.tolist() for c in (*point, 2)], 'handedness': 'right'}
    category = {'id': 1, 'name': 'hand', 'keypoints': hand.JOINTS}
    files.write_json(path, {'images': listed, 'annotations': labels, 'categories': [category]})


def run(config: ConfigDict, crops: Sequence[int], output: Path) -> dict:
    """Trains and scores; returns what the JSON holds."""
    keypoints = write_images(output / 'gloves', TEST + max(crops))
    write_coco(output / 'test/test.json', output / 'gloves', keypoints[:TEST], 0)
    data = config.data.copy_and_resolve_references()
    data.update(manual_dir=str(output / 'test'), data_dir=str(output / 'data'), dataset='coco_hands')
    test = prepared.load(prepared.open_dataset(data), 'test')
    scores = {'none': compare.score(compare.load(config.init_from), test)}
    for num_crops in crops:
        own = config.copy_and_resolve_references()
        write_coco(output / f'{num_crops}/train.json', output / 'gloves', keypoints[TEST : TEST + num_crops], TEST)
        own.data.update(manual_dir=str(output / f'{num_crops}'), data_dir=str(output / 'data'))
        workdir = output / f'run-{num_crops}'
        train.train_and_evaluate(own, workdir)
        scores[str(num_crops)] = compare.score(compare.load(str(workdir)), test)
    shipped = trained_model.load(trained_model.locate(config.init_from))
    return {
        'init_from': {'name': config.init_from, 'epoch': shipped.epoch},
        'test_hands': TEST,
        'crops': scores,
        'config': config.to_dict(),
        **logbook.environment(),
    }


def table(scores: Mapping[str, Mapping]) -> str:
    """Markdown, a row for each number of crops."""
    lines = ['| labelled crops | nme | PCK@0.2 of the box | error_pct |', '| ---: | ---: | ---: | ---: |']
    formats = dict(zip(NAMES, ('.3f', '.1f', '.2f'), strict=True))
    lines += [f'| {name} | {" | ".join(f"{of[n]:{f}}" for n, f in formats.items())} |' for name, of in scores.items()]
    return '\n'.join(lines)


def main(_: list[str]) -> None:
    runtime.keep_freed()
    runtime.keep_compiled(runtime.COMPILED)
    values = flags.FLAGS
    output = Path(values.output)
    files.check_writable(output)
    result = run(values.config, [int(crops) for crops in values.crops], output)
    files.write_json(output / 'fine_tuning.json', result)
    print(f'\n{table(result["crops"])}')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax logs the tracebacks of what is said in one sentence below
    default = str(configuration.find_file('configs/finetune.py'))
    config_flags.DEFINE_config_file('config', default, 'The recipe.')
    flags.DEFINE_list('crops', ['10', '50', '200'], 'How many are trained on, each alone.')
    flags.DEFINE_string('output', 'runs/fine_tuning', 'Folder to write into.')
    try:
        app.run(main, flags_parser=lambda argv: app.parse_flags_with_usage(configuration.find_file_in(argv)))
    except UserError as e:
        sys.exit(f'error: {e}')
