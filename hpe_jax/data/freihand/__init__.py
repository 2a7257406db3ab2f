"""FreiHAND as a TFDS dataset."""

from hpe_jax.data.freihand.freihand_dataset_builder import Builder

__all__ = ['Builder']
