"""Anybody's own photos, labelled as COCO keypoint JSON, as a TFDS dataset."""

from hpe_jax.data.coco_hands.coco_hands_dataset_builder import Builder

__all__ = ['Builder']
