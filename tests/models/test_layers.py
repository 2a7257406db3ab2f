import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpe_jax.models import layers

MEAN, STD = np.array([0.4, 0.5, 0.3]), np.array([0.2, 0.1, 0.25])


def test_standardise_by_hand():
    standardise = layers.Standardise()
    standardise.set(MEAN, STD)
    image = np.full((1, 1, 1, 3), 51, np.uint8)
    np.testing.assert_allclose(standardise(jnp.asarray(image)).ravel(), [-1, -3, -0.4], rtol=1e-5)
    np.testing.assert_allclose(standardise(jnp.full((1, 1, 1, 3), 0.2)).ravel(), [-1, -3, -0.4], rtol=1e-5)
    assert standardise.to_dict() == {name: np.float32(x).tolist() for name, x in (('mean', MEAN), ('std', STD))}


def test_channel_statistics_are_not_trained():
    standardise = layers.Standardise()
    assert not jax.tree.leaves(nnx.state(standardise, nnx.Param)) and len(jax.tree.leaves(nnx.state(standardise))) == 2
