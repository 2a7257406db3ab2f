import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpe_jax import hand
from hpe_jax.models import HandNet, handnet


@pytest.fixture(scope='module')
def small() -> HandNet:
    model = HandNet(widths=(4, 4, 8, 8, 8), conv='xla', rngs=nnx.Rngs(0))
    model.eval()
    return model


logits = nnx.jit(lambda model, images: model.logits(images))


def test_the_shipped_size_in_numbers():
    model = nnx.eval_shape(lambda: HandNet(conv='xla', rngs=nnx.Rngs(0)))
    found = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))

    def block(i, o, size=3):  # convolution, scale and bias of BatchNorm
        return size**2 * i * o + 2 * o

    stem = block(3, 16) + block(16, 24)
    down = block(24, 56) + 2 * block(56, 56) + block(56, 112) + 4 * block(112, 112) + 3 * block(112, 112)
    back = block(56, 24, 1) + 2 * block(24, 24) + block(112, 56, 1) + 2 * block(56, 56)
    back += block(112, 112, 1) + 2 * block(112, 112)
    heads = 113 * handnet.HIDDEN + (handnet.HIDDEN + 1) * (2 + len(handnet.TURNS))
    assert found == stem + down + back + 24 * 21 + 21 + heads


def test_maps_at_a_quarter_and_a_number_of_each_head(small):
    answer = nnx.eval_shape(lambda: small.logits(jnp.zeros((2, 64, 96, 3))))
    shapes = {name: value.shape for name, value in answer.items()}
    assert shapes == {'heatmaps': (2, 16, 24, 21), 'presence': (2,), 'handedness': (2,)}
    assert HandNet.multiple((4, 4, 8, 8, 8)) == 32


@pytest.mark.slow
def test_a_photo_is_answered_alike_in_any_batch(small):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)), jnp.float32)
    whole, alone = logits(small, images), logits(small, images[1:2])
    for name, value in whole.items():
        np.testing.assert_allclose(value[1:2], alone[name], atol=1e-5)


@pytest.mark.slow
def test_folded_norms_give_the_same_answers(small):
    model, rng = nnx.clone(small), np.random.default_rng(0)
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, nnx.BatchNorm):
            for variable in (norm.mean, norm.var, norm.scale, norm.bias):
                variable[...] = jnp.asarray(rng.uniform(0.5, 1.5, variable.shape), jnp.float32)
    folded = model.folded()
    left = [module for _, module in nnx.iter_modules(folded) if isinstance(module, nnx.BatchNorm)]
    assert not left and len(jax.tree.leaves(nnx.state(folded))) < len(jax.tree.leaves(nnx.state(model)))
    images = jnp.asarray(rng.integers(0, 256, (2, 64, 64, 3)), jnp.uint8)
    expected, found = logits(model, images), logits(folded, images)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5 * float(jnp.abs(value).max()))


def test_the_sense_of_rotation_is_the_sine_and_turns_with_the_mirror():
    keypoints = np.random.default_rng(1).uniform(0.2, 0.8, (3, 21, 2))
    at = np.int32(keypoints * 64)
    logits = np.full((3, 64, 64, 21), -50.0, np.float32)
    for i, k in np.ndindex(3, 21):
        logits[i, at[i, k, 1], at[i, k, 0], k] = 50
    found = np.asarray(handnet.sense_of_rotation(jnp.asarray(logits)))
    for column, (first, second) in enumerate(handnet.TURNS):
        a, b = (at[:, k] - at[:, 0] for k in (first, second))
        sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(found[:, column], sine, atol=1e-4)
    np.testing.assert_allclose(handnet.sense_of_rotation(jnp.asarray(logits[:, :, ::-1])), -found, atol=1e-4)
    assert {k for pair in handnet.TURNS for k in pair} <= set(range(hand.NUM_KEYPOINTS))
