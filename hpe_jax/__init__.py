"""2-D hand pose estimation in JAX/Flax: one photo of a hand in, 21 keypoints out."""

__all__ = ['HandPose', 'HandPoseEstimator']


def __getattr__(name: str):
    """The Python API of estimator.py, which loads JAX, on first use."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from hpe_jax.inference import estimator

    return getattr(estimator, name)
