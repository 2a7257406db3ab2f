"""Synthetic hands as files, in FreiHAND's own folder layout, so that its readers read them.

    python -m hpe_jax.data.synthetic_hands.generate --folder=FOLDER [--number=2000] [--preset=studio] [--size=224]

Writes `training/rgb/*.jpg`, `training/mask/*.jpg`, `training_xyz.json` and `training_K.json`; and, which FreiHAND does
not have, `training_occluded.json`, 21 booleans for each. Image i depends on (preset, seed, i) alone, so a killed run
goes on where it stopped, and any number of threads gives the same bytes.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from hpe_jax import files, runtime
from hpe_jax.data.features import PHOTO_SIZE
from hpe_jax.data.synthetic_hands import render
from hpe_jax.errors import UserError

LABELS = ('occluded', 'K', 'xyz')  # the last one tells that all are there
PRESETS = {
    'studio': render.STUDIO,
    'full': render.FULL,
    'presence': render.PRESENCE,
    'open': render.OPEN,
    'bodies': render.BODIES,
    'borderless': render.BORDERLESS,
    'uncluttered': render.UNCLUTTERED,
}
CHUNK = 16  # images that one thread renders in one call
QUALITY = 92  # of the JPEGs


@functools.cache
def renderer(preset: str, seed: int, size: int = PHOTO_SIZE, side_by_side: int | None = None) -> Callable:
    """The jitted image numbers (n,) -> render.Sample of n images, `side_by_side` of them at a time."""
    config = dataclasses.replace(PRESETS[preset], size=size)
    side_by_side = side_by_side or (1 if jax.default_backend() == 'cpu' else CHUNK)

    def one(number):
        return render.render(jax.random.fold_in(jax.random.key(seed), number), config)

    return jax.jit(lambda numbers: jax.lax.map(one, numbers, batch_size=side_by_side if side_by_side > 1 else None))


def _labels(folder: Path, start: int) -> Path:
    """Where the labels of the images from `start` on lie once they are written."""
    return folder / 'parts' / f'{start:08d}.json'


def _write_chunk(folder: Path, start: int, number: int, preset: str, seed: int, size: int) -> int:
    """Renders and writes the images from `start` on, and their labels last; returns how many."""
    numbers = np.arange(start, min(start + CHUNK, number))
    padded = np.resize(numbers, CHUNK)
    samples = jax.tree.map(np.asarray, renderer(preset, seed, size)(padded))
    for i, image, mask in zip(numbers, samples.image, samples.mask, strict=False):
        for kind, pixels in (('rgb', image), ('mask', np.uint8(255) * mask)):
            with files.replacing(folder / f'training/{kind}/{i:08d}.jpg') as temporary:
                Image.fromarray(pixels).save(temporary, quality=QUALITY)
    kept = {name: getattr(samples, name)[: len(numbers)].tolist() for name in LABELS}
    files.write_text(_labels(folder, start), json.dumps(kept))
    return len(numbers)


def write(
    folder: str | Path,
    number: int,
    preset: str = 'studio',
    seed: int = 0,
    size: int = PHOTO_SIZE,
    threads: int | None = None,
) -> Path:
    """Makes `number` hands in the folder, on all cores, with a progress bar; returns the folder.

    Args:
      folder: new, or left by a run with the same preset and seed that was killed.
      preset: a key of PRESETS.
      size: side of the images, pixels.

    Raises:
      UserError: the number, the preset, or the folder's content does not fit, or the disk is full.
    """
    folder = Path(folder)
    if preset not in PRESETS:
        raise UserError(f'preset {preset!r}: unknown; choose from {", ".join(PRESETS)}')
    if not 0 < number <= 100_000_000:
        raise UserError(f'{number} hands: the number must be 1 to 100,000,000')
    recipe = {'preset': preset, 'seed': seed, 'size': size, 'chunk': CHUNK, 'number': number}
    _check_same(folder / 'parts' / 'recipe.json', recipe)
    if not (folder / 'training_xyz.json').exists():
        starts = [start for start in range(0, number, CHUNK) if not _labels(folder, start).exists()]
        left = sum(min(CHUNK, number - start) for start in starts)
        with (
            ThreadPoolExecutor(threads or os.cpu_count()) as pool,
            runtime.Progress(number, 'hand', 'Rendering hands', initial=number - left) as bar,
        ):
            print(f'Rendering {number} hands ({preset}) into {folder}; the renderer compiles first', flush=True)
            for done in pool.map(lambda start: _write_chunk(folder, start, number, preset, seed, size), starts):
                bar.update(done)
        parts = [json.loads(part.read_text()) for part in sorted((folder / 'parts').glob('[0-9]*.json'))]
        for name in LABELS:
            files.write_text(folder / f'training_{name}.json', json.dumps([row for p in parts for row in p[name]]))
    return folder


def _check_same(path: Path, recipe: dict) -> None:
    if not path.exists():
        files.write_json(path, recipe)
    elif json.loads(path.read_text()) != recipe:
        raise UserError(f'{path.parents[1]} holds other hands ({json.loads(path.read_text())}); choose another folder')


def define_flags() -> None:
    flags.DEFINE_string('folder', None, 'Where to write.', required=True)
    flags.DEFINE_integer('number', 2000, 'Number of hands.')
    flags.DEFINE_enum('preset', 'studio', list(PRESETS), 'Which kind of images.')
    flags.DEFINE_integer('size', PHOTO_SIZE, 'Side of the images, pixels.')
    flags.DEFINE_integer('seed', 0, 'Other seeds, other hands.')


def main(_) -> None:
    values = flags.FLAGS
    write(values.folder, values.number, values.preset, values.seed, values.size)


if __name__ == '__main__':
    define_flags()
    app.run(main)
