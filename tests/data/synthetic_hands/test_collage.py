import jax
import jax.numpy as jnp
import numpy as np

from hpe_jax.data.synthetic_hands import collage

SIZE, ANGLE = 64, 0.5


def test_a_turned_post_is_lit_across_its_own_side():
    """Its light falls off on both sides of the middle of its second side, and slopes along the first."""
    one = np.float32([1])
    shapes = collage.Shapes(
        centre=jnp.array([[0.5, 0.5]]),
        half=jnp.array([[0.4, 0.2]]),
        angle=ANGLE * one,
        roundness=0 * one,
        colour=jnp.array([[0.2, 0.4, 0.6]]),
        pattern=0 * one,
        slope=jnp.array([[0.7, 0]]),
        bulge=one,
        layer=0.5 * one,
    )
    image = np.asarray(jax.jit(collage.draw)(jax.random.key(0), jnp.zeros((SIZE, SIZE, 3)), shapes))
    grid = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    along = grid * np.cos(ANGLE) + grid[:, None] * np.sin(ANGLE)
    across = grid[:, None] * np.cos(ANGLE) - grid * np.sin(ANGLE)
    inside = (np.abs(along) < 0.39) & (np.abs(across) < 0.19)
    expected = np.exp(0.7 * along[inside, None] / 0.4 - 1.2 * (across[inside, None] / 0.2) ** 2) * [0.2, 0.4, 0.6]
    np.testing.assert_allclose(image[inside], expected, atol=1e-5)
    assert not image[(np.abs(along) > 0.41) | (np.abs(across) > 0.21)].any()
