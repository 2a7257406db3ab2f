"""What runs on a GPU or TPU lowers for them here; without one, XLA's own compilation for them is not tried."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from configs import hands, tiny
from hpe_jax import evaluate, train
from hpe_jax.data import resident
from hpe_jax.data.synthetic_hands import render

pytestmark = pytest.mark.slow

PLATFORMS = ('cuda', 'tpu')
SIZE, BATCH, IMAGES, STEPS = 32, 4, 8, 3


def unet():
    config = tiny.get_config()
    config.data.update(source='resident', targets='device')
    return config


def handnet():
    config = hands.get_config()
    config.data.image_size = SIZE
    config.model.update(widths=(4, 4, 8), blocks=(1,))
    return config


@pytest.fixture(scope='module', params=[unet, handnet])
def made(request):
    """A config with one of the networks, and its state without values."""
    config = request.param()
    config.model.conv = 'xla'
    return config, nnx.eval_shape(lambda: train.TrainState(config))


def arrays(num_images: int) -> dict:
    shapes = {'image': ((SIZE, SIZE, 3), np.uint8), 'keypoints': ((21, 2), np.float32), 'visible': ((21,), np.bool_)}
    return {name: jax.ShapeDtypeStruct((num_images, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def lowered(function, platform: str, *arguments) -> str:
    """The StableHLO of a jitted function."""
    return function.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize('platform', PLATFORMS)
def test_training_and_evaluation_in_one_call_an_epoch(made, platform):
    config, state = made
    order = jax.ShapeDtypeStruct((STEPS, BATCH), np.int32)
    step = train.make_train_step(config, nnx.graphdef(state), resident.Resident.expand)
    eval_step = evaluate.make_eval_step(config, state.model, config.eval.decoders)
    programs = {
        train.make_train_epoch(step): nnx.state(state),
        evaluate.make_eval_epoch(eval_step): nnx.state(state.model),
    }
    for function, variables in programs.items():
        text = lowered(function, platform, variables, arrays(IMAGES), order)
        assert 'stablehlo.while' in text and 'stablehlo.convolution' in text
        assert 'onednn' not in text and 'callback' not in text  # nothing of the host's


@pytest.mark.parametrize('platform', PLATFORMS)
def test_pictures_are_rendered(platform):
    rendered = jax.jit(jax.vmap(functools.partial(render.render, config=render.Config(size=SIZE))))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    with jax.numpy_rank_promotion('allow'):
        text = lowered(rendered, platform, keys)
    assert 'stablehlo.while' in text and f'tensor<2x{SIZE}x{SIZE}x3xui8>' in text
    assert 'callback' not in text
