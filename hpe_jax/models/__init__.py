"""The models, by the name that `config.model.name` gives."""

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import hand
from hpe_jax.models.convolution import CONVS
from hpe_jax.models.handnet import HandNet
from hpe_jax.models.unet import UNet

__all__ = ['CONVS', 'MODELS', 'make']

MODELS = {'unet': UNet, 'handnet': HandNet}


def make(config: ConfigDict) -> nnx.Module:
    """A freshly initialised model, of config.model (a name and the model's own options), precision and seed."""
    options = {name: value for name, value in config.model.items() if name != 'name'}
    dtype, rngs = jnp.dtype(config.precision), nnx.Rngs(config.seed)
    return MODELS[config.model.name](hand.NUM_KEYPOINTS, **options, dtype=dtype, rngs=rngs)
