"""The models, by the name that `config.model.name` gives."""

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import hand
from hpe_jax.models.unet import UNet

MODELS = {'unet': UNet}


def make(config: ConfigDict, seed: int) -> nnx.Module:
    """A freshly initialised model; `config` is config.model: a name, a dtype, and the model's own options."""
    options = {name: value for name, value in config.items() if name not in ('name', 'dtype')}
    return MODELS[config.name](hand.NUM_KEYPOINTS, **options, dtype=jnp.dtype(config.dtype), rngs=nnx.Rngs(seed))
