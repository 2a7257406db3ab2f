import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import geometry
from hpe_jax.data.synthetic_hands import cloth, generate, rasterise, render
from hpe_jax.errors import UserError

pytestmark = pytest.mark.slow

TIPS = [4, 8, 12, 16, 20]


def test_types_and_ranges(renders):
    assert renders.image.shape == (32, 128, 128, 3) and renders.image.dtype == np.uint8
    assert renders.mask.dtype == bool and renders.visible.dtype == bool and renders.occluded.dtype == bool
    assert np.isfinite(renders.xyz).all() and (renders.xyz[..., 2] > 0.1).all()
    assert len(np.unique(renders.image.reshape(32, -1), axis=0)) == 32
    assert (renders.image.reshape(32, -1).std(1) > 5).all()
    assert (renders.mask.mean((1, 2)) > 0.02).all()


def test_K_projects_xyz_onto_uv(renders):
    np.testing.assert_allclose(geometry.project(renders.xyz, renders.K), renders.uv, rtol=1e-5)
    np.testing.assert_array_equal(renders.visible, geometry.inside_frame(renders.uv / 128))
    assert renders.visible.all()  # unless asked for otherwise


def test_tips_lie_in_the_mask_unless_occluded(renders):
    # Within one of the 128 pixels, since a mask's pixel counts from half its area on.
    mask = np.pad(renders.mask, ((0, 0), (1, 1), (1, 1)))
    column, row = np.moveaxis(renders.uv[:, TIPS].astype(int), -1, 0)
    picture = np.arange(32)[:, None]
    inside = np.any([mask[picture, row + dy, column + dx] for dy in range(3) for dx in range(3)], 0)
    seen = ~renders.occluded[:, TIPS]
    assert 0.3 < seen.mean() < 1
    assert inside[seen].all()


def test_same_picture_in_any_batch(renders):
    batch = generate.renderer(*renders.recipe, side_by_side=2)(np.array([3, 4]))  # the others came one by one
    for k in range(2):
        difference = np.abs(batch.image[k].astype(int) - renders.image[3 + k])
        assert difference.max() <= 1
        np.testing.assert_array_equal(batch.mask[k], renders.mask[3 + k])
    np.testing.assert_allclose(batch.uv, renders.uv[3:5], atol=1e-3)


def test_studio_looks_at_palm_or_back():
    # Only the labels are asked for, so that nothing else is compiled.
    label = jax.jit(lambda keys: jax.lax.map(lambda key: render.render(key, render.STUDIO).xyz, keys))
    xyz = np.asarray(label(jax.random.split(jax.random.key(0), 120)))
    normal = np.cross(xyz[:, 5] - xyz[:, 0], xyz[:, 17] - xyz[:, 0])
    sight = xyz[:, [0, 5, 17]].mean(1)
    cosine = (normal * sight).sum(-1) / np.linalg.norm(normal, axis=-1) / np.linalg.norm(sight, axis=-1)
    tilt = np.rad2deg(np.arccos(np.abs(cosine)))
    # The palm's plane through three joints is a few degrees off the hand's frame, perspective a few more.
    assert tilt.max() < 60 + 15 and np.median(tilt) < 45
    assert (cosine > 0).any() and (cosine < 0).any()


def square(x0, y0, x1, y1, depth, thing):
    """A square of two front-facing triangles in the z-buffer's pixels, as rows of paint's table."""
    corners = [(x0, y0), (x0, y1), (x1, y1), (x1, y0)]
    rows = [[x, y, 1 / depth, -0.1, thing, 0, 0, 0.5, 0.4, 0.3, 1, 1, 1, 0, 0, 0] for x, y in corners]
    return np.array(rows, np.float32)


def test_mask_is_where_the_hand_wins_the_depth_test():
    # A hand from column 4 to 28; before it, from column 20 on, a thing; behind it, up to column 9, another.
    table = jnp.concatenate([square(4, 4, 28, 20, 0.6, 0), square(20, 0, 40, 12, 0.5, 1), square(0, 0, 9, 40, 0.7, 2)])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    faces = np.concatenate([faces, faces + 4, faces + 8])
    buffer = rasterise.rasterise(table[:, :2], table[:, 2], faces, 40, 40)
    garment = cloth.Garment(jnp.array(cloth.NEVER), jnp.full(2, cloth.NEVER), jnp.array(0.0))
    plain = cloth.Materials(jnp.ones((6, 3)), jnp.ones((6, 3)), jnp.ones((6, 2)), jnp.zeros((6, 8, 8)))
    colour, cover, limb = render.paint(buffer, faces, table, garment, plain, 2)

    thing = np.full((40, 40), -1)
    thing[:, :9], thing[4:20, 4:28], thing[:12, 20:] = 2, 0, 1

    def halved(fine):
        return fine.reshape(20, 2, 20, 2).mean((1, 3))

    np.testing.assert_array_equal(limb, halved(thing == 0))
    np.testing.assert_array_equal(cover, halved(thing >= 0))
    # Skin has its own reflectance; a thing has its material's alone, which is 1 here.
    expected = halved(thing == 0)[..., None] * [0.5, 0.4, 0.3] + halved(thing > 0)[..., None]
    np.testing.assert_allclose(colour, expected, atol=1e-5)


def test_squares_of_a_batch_are_painted_as_those_of_each_image(monkeypatch):
    """Also where one image shows nothing, and where it takes several turns."""
    monkeypatch.setattr(render, 'TILES_AT_ONCE', 2)
    rng = np.random.default_rng(0)
    faces = np.arange(30).reshape(-1, 3)
    tiles = np.where(rng.random((3, 9, 1)) < 0.6, rng.integers(-1, 10, (3, 9, render.TILE**2)), -1)
    tiles[1] = -1
    tables = rng.uniform(0.1, 1, (3, 30, 16)).astype(np.float32)
    corners = np.array([[-100, -100], [300, -100], [-100, 300]])  # around all pixels
    tables[..., :2] = np.tile(corners, (10, 1)) + 40 * tables[..., :2]
    tables[..., 4] = rng.integers(0, 3, (3, 10)).repeat(3, 1)  # the thing, the same at a face's corners
    garments = cloth.Garment(*(rng.uniform(0, 1, (3, *shape)).astype(np.float32) for shape in ((), (2,), ())))
    shapes = (6, 3), (6, 3), (6, 2), (6, 8, 8)
    materials = cloth.Materials(*(rng.uniform(0, 1, (3, *shape)).astype(np.float32) for shape in shapes))
    paint = jax.jit(functools.partial(render.paint_tiles, faces=faces, supersampling=2))
    examples = tiles, tables, garments, materials
    found = paint(*examples)
    assert found.shape == (3, 9, 8, 8, 5) and (found[1] == 0).all() and len(np.unique(found)) > 1000
    for i in range(3):
        alone = paint(*jax.tree.map(lambda x, i=i: x[i : i + 1], examples))
        np.testing.assert_allclose(found[i], alone[0], atol=1e-5)
    np.testing.assert_array_equal((found[..., 3] > 0).any((2, 3)), (tiles >= 0).any(-1))


def test_a_square_shows_what_lies_at_its_place():
    """Of a triangle whose red is x and whose green is y."""
    tiles = np.where(np.arange(9)[:, None] == 5, -1, np.zeros((9, render.TILE**2), int))
    corners = np.array([[-100, -100], [300, -100], [-100, 300]])
    table = np.zeros((3, 16), np.float32)
    table[:, :2], table[:, 2], table[:, 7:9], table[:, 10:13] = corners, 1, corners, 1
    garment = cloth.Garment(np.float32(1), np.float32([1, 1]), np.float32(0))  # far up the arm
    plain = cloth.Materials(np.ones((6, 3)), np.ones((6, 3)), np.ones((6, 2)), np.ones((6, 8, 8)))
    examples = jax.tree.map(lambda x: jnp.float32(x)[None], (table, garment, plain))
    found = render.paint_tiles(jnp.asarray(tiles)[None], *examples, faces=np.array([[0, 1, 2]]), supersampling=2)[0]
    for tile in range(9):
        row, column = np.indices((8, 8)) + np.array([tile // 3 * 8, tile % 3 * 8])[:, None, None]
        expected = np.zeros((8, 8, 5))
        if tile != 5:
            expected[..., 0], expected[..., 1], expected[..., 3:] = 2 * column + 1, 2 * row + 1, 1
        np.testing.assert_allclose(found[tile], expected, atol=1e-3)


def test_occluded_is_behind_a_thing_or_deeper_than_flesh():
    table = np.concatenate([square(0, 0, 20, 40, 0.5, 0), square(20, 0, 40, 40, 0.5, 1)])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    buffer = rasterise.rasterise(table[:, :2], table[:, 2], faces, 40, 40)
    odd = np.arange(21) % 2 == 1

    def found(column, depth):
        xyz = jnp.stack([jnp.zeros(21), jnp.zeros(21), depth], -1)
        return render.occluded(buffer, (2, 4), xyz, jnp.full((21, 2), column + 0.5))

    np.testing.assert_array_equal(found(10, 0.5 + render.FLESH * np.where(odd, 0.9, 1.1)), ~odd)
    np.testing.assert_array_equal(found(30, 0.5 + np.where(odd, 0.002, -0.002)), odd)


@pytest.mark.parametrize(
    'wrong', [{'size': 0}, {'supersampling': 3}, {'backgrounds': ('wal',)}, {'backgrounds': ()}, {'gesture': 'wave'}]
)
def test_wrong_config_is_said(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        dataclasses.replace(render.FULL, **wrong)
