"""Losses of ONE keypoint's heatmap and of a head's number, and the mean over those of a batch that count."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def iou(predicted: Float[Array, 'h w'], target: Float[Array, 'h w'], epsilon: float = 1e-6) -> Float[Array, '']:
    """1 - IoU, the soft Jaccard distance of two maps in [0, 1].

    IoU = sum(t·p) / (sum t² + sum p² - sum t·p), epsilon added above and below (Chernytska, "Gentle introduction to 2D
    Hand Pose Estimation", 2021). It weighs the few pixels of the peak against their own size, not the map's.
    """
    intersection = (target * predicted).sum()
    union = (target**2).sum() + (predicted**2).sum() - intersection
    return 1 - (intersection + epsilon) / (union + epsilon)


def mse(predicted: Float[Array, 'h w'], target: Float[Array, 'h w']) -> Float[Array, '']:
    """Mean squared error over the pixels."""
    return ((predicted - target) ** 2).mean()


def balanced_mse(predicted: Float[Array, 'h w'], target: Float[Array, 'h w']) -> Float[Array, '']:
    """Squared error with foreground and background weighing half each, as if both had the same number of pixels.

    The class balance of Xie and Tu, "Holistically-nested edge detection", 2015, for a target that is no 0-or-1 mask: a
    pixel belongs to the foreground by its target value. Of an empty target only the background half remains.
    """
    error = (predicted - target) ** 2
    foreground, background = (
        (weight * error).sum() / jnp.maximum(weight.sum(), 1e-6) for weight in (target, 1 - target)
    )
    return (foreground + background) / 2


def cross_entropy(logits: Float[Array, 'h w'], target: Float[Array, 'h w']) -> Float[Array, '']:
    """Cross-entropy between the target, scaled to sum 1, and the softmax over all pixels of the map.

    The keypoint lies in one place: a map that is sure of two has lost log 2. An empty target gives 0.
    """
    weights = target / jnp.maximum(target.sum(), 1e-6)
    return jax.nn.logsumexp(logits) * weights.sum() - (weights * logits).sum()


LOSSES = {'iou': iou, 'mse': mse, 'balanced_mse': balanced_mse, 'cross_entropy': cross_entropy}
OF_LOGITS = ('cross_entropy',)  # the others take maps in [0, 1]


def per_keypoint(
    loss: str, predicted: Float[Array, 'b h w k'], target: Float[Array, 'b h w k'], **options
) -> Float[Array, 'b k']:
    """The named loss (a key of LOSSES, with its own options) of every keypoint's map."""
    one_hand = jax.vmap(partial(LOSSES[loss], **options), in_axes=-1)
    return jax.vmap(one_hand)(predicted, target)


def binary(logits: Float[Array, ' b'], truth: Bool[Array, ' b']) -> Float[Array, ' b']:
    """Cross-entropy of yes-or-no answers, numerically safe."""
    return jax.nn.softplus(jnp.where(truth, -logits, logits))


def masked_mean(values: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
    """Mean of the values that count; 0 where none does. A value that does not count gets no gradient."""
    total = jnp.where(mask, values, 0).sum()
    return total / jnp.maximum(mask.sum(), 1)
