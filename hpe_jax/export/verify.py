"""How far a file's answers are from those of the model that it was made of."""

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from hpe_jax import trained_model
from hpe_jax.errors import UserError
from hpe_jax.export.formats import Answer

BOUND = 1e-4  # keypoints: pixels of the input; and scores
BATCHES = (1, 3, 8, 20)  # of the photos that a file is tried on
NUDGES, UNITS = 8, 4


def compare(run: trained_model.TrainedModel, decoder: str, answer: Answer) -> dict:
    """How far a file's answers are from the model's, on photos in batches of several sizes.

    Some keypoints hang on rounding, in the model as in the file: of a map that is nearly empty or has two peaks, of
    pixels that tie or lie on the rim of a disc. The model itself tells which: its own answer moves when its weights are
    nudged in their last places. Where that is less than a third of BOUND (root mean square), BOUND holds; elsewhere a
    keypoint may be as far as six times that, and the result tells of these apart.

    Raises:
      UserError: a keypoint or a score is further from the model's.
    """
    infer = jax.jit(trained_model.make_infer(run.config, run.model, decoder))
    state, size = nnx.state(run.model), run.config.data.image_size
    images = photos(sum(BATCHES), size)
    ours = jax.tree.map(np.asarray, infer(state, images))
    keypoints, numbers = ours['keypoints'], [name for name in ours if name != 'keypoints']
    moves = [np.asarray(infer(nudged, images)['keypoints']) - keypoints for nudged in nudges(state)]
    rounding = size * np.sqrt(np.square(moves).mean(0)).max(-1)
    answers = [answer(batch) for batch in np.split(images, np.cumsum(BATCHES)[:-1])]
    theirs = {name: np.concatenate([np.asarray(x[name]) for x in answers]) for name in ours}
    distance = size * np.abs(theirs['keypoints'] - keypoints).max(-1)
    firm = rounding < BOUND / 3
    result = {
        'bound': BOUND,
        'batches': BATCHES,
        'keypoints': int(firm.sum()),
        'keypoints_px': float(distance[firm].max(initial=0)),
        'scores': max(float(np.abs(theirs[name] - ours[name]).max()) for name in numbers),
        'keypoints_that_hang_on_rounding': int((~firm).sum()),
        'their_px': float(distance[~firm].max(initial=0)),
        'their_rounding_px': float(rounding[~firm].max(initial=0)),
    }
    close = (distance <= np.where(firm, BOUND, 6 * rounding)).all() and result['scores'] <= BOUND  # NaN is not
    if not close or not firm.any():
        raise UserError(f'the file does not agree with the model, so it is not kept: {told(result)}')
    return result


def told(agreement: dict) -> str:
    """The result of `compare` in a sentence."""
    text = (
        f'{agreement["keypoints"]} keypoints are within {agreement["keypoints_px"]:.1e} px of the model '
        f'(the bound is {BOUND}) and all scores within {agreement["scores"]:.1e}'
    )
    if agreement['keypoints_that_hang_on_rounding']:
        text += (
            f'; {agreement["keypoints_that_hang_on_rounding"]} more are within {agreement["their_px"]:.1e} px, where '
            f'rounding in float32 moves the model itself by up to {agreement["their_rounding_px"]:.1e}'
        )
    return text


def photos(number: int, size: int) -> UInt8[np.ndarray, 'number size size 3']:
    """A palm and five fingers before noise of all scales, the coarse ones strongest as in photos. Always the same."""
    rng = np.random.default_rng(0)
    scales = [2**i for i in range(1, int(np.log2(size)) + 1)]
    pictures = []
    for _ in range(number):
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


def nudges(state: nnx.State) -> Iterator[nnx.State]:
    """NUDGES states with every number of a model moved up or down by UNITS of its last place."""
    rng = np.random.default_rng(0)
    step = UNITS * np.finfo(np.float32).eps / 2
    for _ in range(NUDGES):
        yield jax.tree.map(lambda x: x * np.float32(1 + step * rng.choice([-1, 1], x.shape)), state)
