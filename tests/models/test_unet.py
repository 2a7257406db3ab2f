import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpe_jax.models import unet


def small(**options):
    return unet.UNet(widths=(4, 6, 8), rngs=nnx.Rngs(0), **options)


@nnx.jit
def forward(model, x):
    return model(x)


def photos(number: int = 2):
    return jax.random.normal(jax.random.key(1), (number, 16, 24, 3))


def test_the_reference_has_491_206_parameters():
    model = unet.UNet(rngs=nnx.Rngs(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 491_206


def test_one_map_a_keypoint_at_the_photos_own_resolution():
    heatmaps = forward(small(), photos())
    assert heatmaps.shape == (2, 16, 24, 21)
    assert heatmaps.min() > 0 and heatmaps.max() < 1


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_parameters_and_heatmaps():
    model = small(dtype=jnp.bfloat16)
    assert forward(model, photos()).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype('float32')}
    exact = forward(small(), photos())
    np.testing.assert_allclose(forward(model, photos()), exact, atol=0.03)


def test_max_pool_takes_the_largest_of_each_2x2_block():
    x = jnp.arange(2 * 4 * 6 * 1.0).reshape(2, 4, 6, 1)[:, ::-1]
    np.testing.assert_array_equal(unet.max_pool(x), nnx.max_pool(x, (2, 2), (2, 2)))


def test_upsample_by_hand():
    # Centres of the fine pixels lie at .25 and .75 between the coarse ones; outside them the edge repeats.
    x = jnp.array([[0.0, 4.0]])[None, :, :, None]
    np.testing.assert_allclose(unet.upsample(x)[0, :, :, 0], [[0, 1, 3, 4], [0, 1, 3, 4]])
    x = photos()
    np.testing.assert_allclose(unet.upsample(x), jax.image.resize(x, (2, 32, 48, 3), 'bilinear'), atol=1e-6)


@pytest.mark.slow
def test_in_eval_mode_a_photo_does_not_depend_on_its_batch():
    model = small()
    forward(model, photos(8))  # statistics that are not the initial ones
    model.eval()
    np.testing.assert_allclose(forward(model, photos(4))[:1], forward(model, photos(4)[:1]), atol=1e-6)


def test_train_mode_moves_the_statistics_a_tenth_of_the_way_and_eval_mode_uses_them():
    model = small()
    x = photos(8)
    forward(model, x)
    np.testing.assert_allclose(model.down[0].norm1.mean[...], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(model.down[0].norm1.var[...], 0.9 + 0.1 * x.var((0, 1, 2)), atol=1e-6)
    before = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    model.eval()
    forward(model, x)
    for old, new in zip(before, jax.tree.leaves(nnx.state(model, nnx.BatchStat)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_pixel_reaches_just_the_outputs_within_the_receptive_field():
    model = unet.UNet(widths=(4, 6), rngs=nnx.Rngs(0))
    model.eval()
    x = jnp.zeros((1, 32, 32, 3))
    changed = jnp.abs(forward(model, x.at[0, 15, 15].set(5.0)) - forward(model, x)).max((0, 3)) > 1e-9
    rows = jnp.flatnonzero(changed.any(1))
    # Two 3x3 at full size, two at half, bilinear up, two at full size, and the last one: at most 12 to a side.
    assert changed[15, 15] and rows.min() >= 15 - 12 and rows.max() <= 15 + 12


@pytest.mark.slow
@pytest.mark.parametrize('leaf', ['down', 'bottleneck', 'up', 'out'])
def test_every_part_has_a_gradient(leaf):
    gradients = nnx.jit(nnx.grad(lambda m: (m(photos()) ** 2).sum()))(small())
    for gradient in jax.tree.leaves(gradients[leaf]):
        assert jnp.abs(gradient).max() > 0
