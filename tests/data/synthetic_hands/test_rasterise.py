import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.data.synthetic_hands import rasterise

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 40, 56
z_buffer = jax.jit(rasterise.rasterise, static_argnums=(3, 4))


def slow_z_buffer(xy, inv_z, faces, height, width):
    """Every pixel against every triangle in float64: 1 / depth of the nearest (0 where one is missing), its number."""
    nearest, winner = np.zeros((height, width)), np.full((height, width), -1)
    points = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    for number, triangle in enumerate(faces):
        p = xy[triangle]
        sides = [(p[k - 2], p[k - 1] - p[k - 2]) for k in range(3)]
        weights = [s[0] * (points - q)[..., 1] - s[1] * (points - q)[..., 0] for q, s in sides]
        area = sum(weights)
        if area.min() >= 0 or inv_z[triangle].min() <= 0:
            continue
        value = sum(w * z for w, z in zip(weights, inv_z[triangle], strict=True)) / area
        closer = (np.max(weights, 0) <= 0) & (value > nearest)
        nearest, winner = np.where(closer, value, nearest), np.where(closer, number, winner)
    return nearest, winner


def random_soup(seed, num_faces=150):
    """Triangles of all sizes, many partly outside the frame, on a grid of 1/8 pixel so that edge tests are exact."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-0.2, 1.2, (num_faces, 1, 2)) * [WIDTH, HEIGHT]
    size = 10 ** rng.uniform(0, 1.6, (num_faces, 1, 1))
    xy = np.round((centre + size * rng.normal(size=(num_faces, 3, 2))) * 8) / 8
    inv_z = rng.uniform(0.5, 3, num_faces * 3)
    return xy.reshape(-1, 2).astype(np.float32), inv_z.astype(np.float32), np.arange(num_faces * 3).reshape(-1, 3)


@pytest.mark.parametrize('seed', range(4))
def test_equals_slow_z_buffer(seed):
    xy, inv_z, faces = random_soup(seed)
    buffer = z_buffer(xy, inv_z, faces, HEIGHT, WIDTH)
    face = np.array(rasterise.face_at(buffer, len(faces)))
    nearest, winner = slow_z_buffer(xy.astype(float), inv_z.astype(float), faces, HEIGHT, WIDTH)
    np.testing.assert_array_equal(face >= 0, winner >= 0)
    assert (winner >= 0).mean() > 0.5 and len(np.unique(winner)) > 20
    assert (face != winner).sum() < 5  # only ties within a quantisation step may go to another triangle
    depth = np.where(face >= 0, rasterise.inv_z_at(buffer, len(faces)), 0)
    np.testing.assert_allclose(depth, nearest, atol=1e-4)


def test_long_queue_needs_several_turns(monkeypatch):
    xy, inv_z, faces = random_soup(7)
    whole = z_buffer(xy, inv_z, faces, HEIGHT, WIDTH)
    monkeypatch.setattr(rasterise, 'CHUNK', 64)
    again = jax.jit(lambda *mesh: rasterise.rasterise(*mesh, HEIGHT, WIDTH))(xy, inv_z, faces)
    np.testing.assert_array_equal(again.words, whole.words)


def test_first_after_is_a_search_from_the_right():
    ends = np.cumsum([0, 3, 0, 0, 5, 1, 0, 7])
    for start in range(20):
        expected = np.searchsorted(ends, start + np.arange(6), side='right')
        np.testing.assert_array_equal(rasterise.first_after(jnp.array(ends), jnp.array(start), 6), expected)


@pytest.mark.parametrize('chunk', [64, rasterise.CHUNK])
def test_a_batch_is_one_queue_of_the_same_images(monkeypatch, chunk):
    monkeypatch.setattr(rasterise, 'CHUNK', chunk)
    soups = [random_soup(seed) for seed in range(3)]
    faces = soups[0][2]
    xy, inv_z = (jnp.stack([soup[k] for soup in soups]) for k in (0, 1))
    xy = xy.at[1].add(1000)  # nothing of this one is seen
    alone = [z_buffer(xy[i], inv_z[i], faces, HEIGHT, WIDTH) for i in range(3)]
    batched = jax.jit(jax.vmap(lambda xy, inv_z: rasterise.rasterise(xy, inv_z, faces, HEIGHT, WIDTH)))
    assert (alone[1].words == rasterise.EMPTY).all() and (alone[0].words != alone[2].words).any()
    found = batched(xy, inv_z)
    for image, one in zip(found.words, alone, strict=True):
        assert np.mean(image != one.words) < 0.2  # by rounding, as XLA fuses otherwise,
        depths = (np.int64(words) >> rasterise.id_bits(len(faces)) for words in (image, one.words))
        assert abs(np.subtract(*depths)).max() <= 2**5  # of 2**23 steps
    assert f'u32[{3 * HEIGHT * WIDTH}]' in str(jax.make_jaxpr(batched)(xy, inv_z))  # one buffer, hence one queue
    shared = jax.jit(jax.vmap(lambda xy: rasterise.rasterise(xy, inv_z[0], faces, HEIGHT, WIDTH)))(xy)
    assert np.mean(shared.words[0] != alone[0].words) < 0.2


def test_pixel_centres_and_facing():
    # The right angle's legs run through the centres of row 1 and column 1: those pixels belong to the triangle.
    xy = jnp.array([[1.5, 1.5], [4.5, 1.5], [1.5, 4.5]])
    front, back = jnp.array([[0, 2, 1]]), jnp.array([[0, 1, 2]])
    face = rasterise.face_at(z_buffer(xy, jnp.ones(3), front, 6, 6), 1)
    expected = np.full((6, 6), -1)
    for row in range(1, 5):
        expected[row, 1 : 6 - row] = 0
    np.testing.assert_array_equal(face, expected)
    assert (z_buffer(xy, jnp.ones(3), back, 6, 6).words == rasterise.EMPTY).all()
    assert (z_buffer(xy, jnp.array([1, 1, -0.1]), front, 6, 6).words == rasterise.EMPTY).all()


def test_barycentric_is_perspective_correct():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-1, 1, (50, 3, 3)) + [0, 0, 3]
    weights = rng.dirichlet(np.ones(3), 50)
    points = (weights[:, :, None] * corners).sum(1)
    found = rasterise.barycentric(
        jnp.array(corners[..., :2] / corners[..., 2:]),
        jnp.array(1 / corners[..., 2]),
        jnp.array(points[:, :2] / points[:, 2:]),
    )
    np.testing.assert_allclose(found, weights, atol=1e-3)


def test_vmap_and_map_agree_with_single_pictures():
    soups = [random_soup(seed) for seed in range(3)]
    many = tuple(jnp.stack([soup[k] for soup in soups]) for k in (0, 1))
    faces = soups[0][2]

    def draw(one):
        return rasterise.face_at(z_buffer(*one, faces, HEIGHT, WIDTH), len(faces))

    single = jnp.stack([draw((many[0][k], many[1][k])) for k in range(3)])
    assert (jax.vmap(draw)(many) == single).mean() > 0.999
    assert (jax.lax.map(draw, many) == single).mean() > 0.999
