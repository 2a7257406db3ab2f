"""What a config's augmentation makes of photos, and whether the keypoints stay on the hands.

    python -m experiments.augment_sheet --config=configs/unet.py --output=experiments/records/augment.jpg \\
        --config.augment.rotation=180 --config.augment.scale=0.25 --config.augment.shift=0.1 ...

Writes a picture of synthetic hands, a row each: the original, then what seven keys make of it.
"""

import sys

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from hpe_jax import configuration, geometry, preprocess, visualize
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    'config', str(configuration.find_file('configs/unet.py')), 'Its augment section counts, and the image size.'
)
PRESET = flags.DEFINE_enum('preset', 'full', list(generate.PRESETS), 'Which kind of hands.')
OUTPUT = flags.DEFINE_string('output', None, 'The picture to write.', required=True)
HANDS, KEYS = 6, 7


def main(_) -> None:
    config = CONFIG.value
    config.data.targets = 'device'
    configuration.check(config)
    hands = generate.renderer(PRESET.value, seed=0, size=config.data.image_size)(np.arange(HANDS))
    keypoints = hands.uv / np.float32(config.data.image_size)
    batch = {'image': hands.image, 'keypoints': keypoints, 'visible': geometry.inside_frame(keypoints)}
    batch['mask'] = np.ones(HANDS, bool)
    augment = jax.jit(lambda batch, key: preprocess.augment(batch, config.augment, key))
    batches = [batch] + [augment(batch, jax.random.key(seed)) for seed in range(KEYS)]
    columns = [np.stack([batch[name] for batch in batches], 1) for name in ('image', 'keypoints', 'visible')]
    visualize.save(visualize.sheet(*columns), OUTPUT.value)


if __name__ == '__main__':
    try:
        app.run(main, flags_parser=lambda argv: app.parse_flags_with_usage(configuration.find_file_in(argv)))
    except UserError as e:
        sys.exit(f'error: {e}')
