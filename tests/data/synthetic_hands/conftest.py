import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def rank_promotion():
    """The renderer's vectors meet arrays of points everywhere; shapes are checked by annotations instead."""
    with jax.numpy_rank_promotion('allow'):
        yield
