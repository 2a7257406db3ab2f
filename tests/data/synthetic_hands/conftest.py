import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def rank_promotion():
    """The renderer's vectors meet arrays of points everywhere; shapes are checked by annotations instead.

    For all threads, hence no context manager: the generator renders in several.
    """
    jax.config.update('jax_numpy_rank_promotion', 'allow')
    yield
    jax.config.update('jax_numpy_rank_promotion', 'raise')
