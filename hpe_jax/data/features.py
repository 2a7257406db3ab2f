"""What every data set of hands here has in common: its features, its splits, its image size, its licence."""

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Shaped

from hpe_jax.errors import UserError

PHOTO_SIZE = 224  # of FreiHAND, and of synthetic hands that name no other size
VERSIONS = ('gs', 'hom', 'sample', 'auto')  # of a photo of FreiHAND
# The reference's split of FreiHAND's 32,560 unique photos: [0, 26000), [26000, 31000), [31000, 32560).
REFERENCE_BOUNDS = (26000, 31000, 32560)
# The first half of config.data.dataset -> what its images, and models trained on them, may be used for.
LICENCES = {
    'freihand': {
        'licence': 'research only, no commercial use; cite Zimmermann et al., "FreiHAND", ICCV 2019',
        'link': 'https://lmb.informatik.uni-freiburg.de/projects/freihand/',
    },
    'synthetic_hands': {
        'licence': 'free: rendered by hpe_jax itself, of a mesh from MakeHuman that is CC0',
        'link': 'https://creativecommons.org/publicdomain/zero/1.0/',
    },
    'coco_hands': {'licence': "unknown: the user's own photos, under whatever licence they have"},
}


def split_bounds(n_unique: int) -> dict[str, range]:
    """The unique photos of each split: the reference's ranges, in proportion, rounded down."""
    train, validation, total = (bound * n_unique // REFERENCE_BOUNDS[-1] for bound in REFERENCE_BOUNDS)
    return {'train': range(train), 'validation': range(train, validation), 'test': range(validation, total)}


def hand_features(size: int = PHOTO_SIZE, depth: bool = True) -> dict:
    """TFDS features; `size`: side of the images, pixels; `depth`: whether the labels have `xyz` and `K`."""
    labels = {
        'xyz': tfds.features.Tensor(shape=(21, 3), dtype=np.float32, doc='Metres, camera frame.'),
        'K': tfds.features.Tensor(shape=(3, 3), dtype=np.float32, doc='Pixels.'),
    }
    return {
        'image': tfds.features.Image(shape=(size, size, 3), encoding_format='jpeg'),
        **(labels if depth else {}),
        'uv': tfds.features.Tensor(shape=(21, 2), dtype=np.float32, doc='(x, y), pixels of the photo.'),
        'sample_id': tfds.features.Scalar(dtype=np.int64, doc='Index of the unique photo.'),
        'version': tfds.features.ClassLabel(names=VERSIONS),
    }


def margin(size: int, context: float) -> int:
    """Pixels on each side of a crop of that size that a picture keeps which is `context` times as wide.

    Raises:
      UserError: they are no whole number.
    """
    around = size * (context - 1) / 2
    if around != int(around):
        raise UserError(
            f'config.data.context={context}: a crop of {size} pixels would lie {around} pixels inside its picture; '
            'expected a whole number, such as 1.5 gives for sizes that 4 divides'
        )
    return int(around)


def channel_sums(pixels: Shaped[np.ndarray, 'h w 3']) -> Float[np.ndarray, '3 3']:
    """Per channel of an image in [0, 255]: the number of pixels, and of these in [0, 1] the sum and that of squares."""
    values = np.float64(pixels).reshape(-1, 3) / 255
    return np.stack([np.full(3, len(values)), values.sum(0), (values**2).sum(0)], 1)
