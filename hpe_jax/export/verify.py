"""Whether an exported file computes what its model computes."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from hpe_jax import trained_model
from hpe_jax.errors import UserError
from hpe_jax.export.formats import Answer

BOUND = 1e-3  # pixels of the input; scores: a tenth of it
BATCHES = (1, 3, 8, 20)  # sizes of the batches that a file is tried on, of each kind of images


def compare(run: trained_model.TrainedModel, decoder: str, answer: Answer) -> dict[str, float]:
    """Differences between a file's answers and the model's, on drawn hands and on noise.

    Returns:
      `bound`, the largest difference allowed, `largest` and `percentile_99` of the keypoints, in pixels of the input;
      `scores`, the largest of the scores and heads.

    Raises:
      UserError: a keypoint differs by more than BOUND pixels, or a score by more than a tenth of that.
    """
    infer = jax.jit(trained_model.make_infer(run.config, run.model, decoder))
    state, size, num_images = nnx.state(run.model), run.config.data.image_size, sum(BATCHES)
    noise = np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3), np.uint8)
    keypoints, scores = [], []
    for images in (drawn_hands(num_images, size), noise):
        expected = infer(state, images)
        answers = [answer(batch) for batch in np.split(images, np.cumsum(BATCHES)[:-1])]
        for name, values in expected.items():
            difference = np.abs(np.concatenate([np.asarray(x[name]) for x in answers]) - np.asarray(values))
            (keypoints if name == 'keypoints' else scores).append(difference.ravel())
    keypoints, scores = size * np.concatenate(keypoints), np.concatenate(scores)
    result = {
        'bound': BOUND,
        'largest': float(keypoints.max()),
        'percentile_99': float(np.percentile(keypoints, 99)),
        'scores': float(scores.max()),
    }
    if not (result['largest'] <= BOUND and result['scores'] <= BOUND / 10):  # NaN is not
        raise UserError(f'the file differs from the model, so it is not kept: {sentence(result)}')
    return result


def sentence(result: dict[str, float]) -> str:
    """The result of `compare` in words."""
    return (
        f'keypoints by at most {result["largest"]:.1e} px, 99 % of them by at most {result["percentile_99"]:.1e} px '
        f'(allowed: {result["bound"]}), scores by at most {result["scores"]:.1e}'
    )


def drawn_hands(num_images: int, size: int) -> UInt8[np.ndarray, 'num_images size size 3']:
    """A palm and five fingers before noise of all scales, the coarse ones strongest as in photos. Always the same."""
    rng = np.random.default_rng(0)
    scales = [2**i for i in range(1, int(np.log2(size)) + 1)]
    pictures = []
    for _ in range(num_images):
        noises = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)) for n in scales]
        layers = [noise.resize((size, size), Image.Resampling.BICUBIC) for noise in noises]
        cloud = np.average(np.float32(layers), 0, 1 / np.float32(scales))
        picture = Image.fromarray(np.uint8(255 * (cloud - cloud.min()) / (cloud.max() - cloud.min())))
        pen, skin = ImageDraw.Draw(picture), rng.uniform(0.4, 1) * np.array([255, 185, 140])
        palm, turn, width = size * rng.normal(0.5, 0.05, 2), rng.uniform(0, 2 * np.pi), 0.08 * size
        for finger, length in zip((-0.9, -0.3, 0, 0.3, 0.6), (0.25, 0.32, 0.35, 0.32, 0.28), strict=True):
            tip = palm + length * size * np.array([np.sin(turn + finger), -np.cos(turn + finger)])
            pen.line([*palm, *tip], tuple(np.uint8(skin * rng.uniform(0.8, 1))), round(width))
        pen.ellipse([*(palm - 1.7 * width), *(palm + 1.7 * width)], tuple(np.uint8(skin)))
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
