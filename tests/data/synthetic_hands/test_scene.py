import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.data.synthetic_hands import background, cloth, mesh, objects, scene, shading

pytestmark = pytest.mark.slow


def volume(points, faces):
    """Signed volume of a closed mesh; positive if its triangles are counter-clockwise from outside."""
    a, b, c = np.moveaxis(np.asarray(points, np.float64)[np.asarray(faces)], 1, 0)
    return np.einsum('ni,ni->', a, np.cross(b, c)) / 6


@pytest.mark.parametrize('exponents, expected', [((1.0, 1.0), 4 / 3 * np.pi), ((0.01, 0.01), 8)])
def test_superquadric_from_ellipsoid_to_box(exponents, expected):
    axes = objects.axes_along(jnp.array([0.3, -1.0, 0.5]), jnp.array(0.7))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.det(axes), 1, atol=1e-6)
    radii, centre = jnp.array([0.02, 0.03, 0.1]), jnp.array([0.1, 0.2, 0.5])
    points, normals, _ = objects.superquadric(centre, axes, radii, jnp.array(exponents), jnp.zeros(4))
    np.testing.assert_allclose(volume(points, objects.FACES), expected * radii.prod(), rtol=0.06)
    np.testing.assert_allclose(np.abs((points - centre) @ axes.T).max(0), radii, rtol=0.02)
    assert (((points - centre) * normals).sum(-1) > 0).all()


def test_ellipsoid_normals_are_those_of_its_equation():
    radii = jnp.array([0.02, 0.03, 0.1])
    points, normals, _ = objects.superquadric(jnp.zeros(3), jnp.eye(3), radii, jnp.ones(2), jnp.zeros(4))
    gradient = points / radii**2
    cosine = (gradient * normals).sum(-1) / jnp.linalg.norm(gradient, axis=-1)
    assert cosine.min() > 0.99


def test_hand_normals_point_outwards():
    loaded, around = scene.hand_mesh()
    assert volume(loaded.rest, loaded.triangles) > 0
    normals = np.asarray(scene.vertex_normals(loaded.rest, loaded.triangles, around))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-4)
    grown = volume(loaded.rest + 0.0005 * normals, loaded.triangles)
    assert grown > volume(loaded.rest, loaded.triangles)
    palm, back = (normals[np.asarray(loaded.palm) == side] for side in (1, 0))
    assert palm[:, 2].mean() > 0 > back[:, 2].mean()  # z looks out of the palm


def test_all_triangles_use_existing_vertices():
    count = len(scene.hand_mesh()[0].rest) + scene.THINGS * objects.NUM_VERTICES
    assert scene.faces().min() == 0 and scene.faces().max() == count - 1


def test_sky_seen_past_a_ball():
    points, up = jnp.zeros((3, 3)), jnp.array([[0.0, 0, 1], [0, 0, -1], [1, 0, 0]])
    ball, radius = jnp.array([[0.0, 0.0, 0.02]]), jnp.array([0.01])
    # Straight ahead it covers (r / d)^2 = 1/4 of the sky; behind or on the horizon nothing.
    np.testing.assert_allclose(shading.blocked_sky(points, up, ball, radius), [np.exp(-1.2 / 4), 1, 1], atol=1e-5)


def test_shadow_falls_behind_what_stands_in_the_light():
    # A small board between the lamp and the middle of a large one; both face the lamp on the camera's side.
    def board(half, z):
        return jnp.array([[-half, -half, z], [-half, half, z], [half, half, z], [half, -half, z], [0, 0, z]])

    points = jnp.concatenate([board(0.1, 0.5), board(0.02, 0.45)])
    fan = np.array([[4, 0, 1], [4, 1, 2], [4, 2, 3], [4, 3, 0]])
    normals = jnp.tile(jnp.array([0.0, 0.0, -1.0]), (10, 1))
    light = shading.random_light(jax.random.key(0))
    light = light._replace(direction=light.direction.at[0].set(jnp.array([0, 0, -1.0])), softness=jnp.array(0.03))
    faces = np.concatenate([fan, fan + 5])
    seen = shading.key_light_seen(jax.random.key(1), points, normals, faces, jnp.array([0, 0, 0.5]), light)
    np.testing.assert_allclose(seen, [1, 1, 1, 1, 0, 1, 1, 1, 1, 1], atol=1e-6)


def test_materials_along_the_arm():
    garment = cloth.Garment(jnp.array(0.1), jnp.array([0.02, 0.04]), jnp.array(0.005))
    arm, thing = jnp.array([-0.1, 0.03, 0.06, 0.2, 0.2]), jnp.array([0, 0, 0, 0, 2])
    expected = [cloth.SKIN, cloth.BAND, cloth.SKIN, cloth.SLEEVE, cloth.FIRST_THING + 1]
    np.testing.assert_array_equal(cloth.material_at(arm, thing, garment), expected)


def test_things_vanish_unless_asked_for():
    nothing = mesh.Held(jnp.array(-1), jnp.zeros(3), jnp.array([0, 1.0, 0]), jnp.full(2, 0.03))
    view = scene.camera.View(jnp.eye(3), jnp.array([0, 0, 0.6]), jnp.eye(3))
    things = scene.random_things(jax.random.key(0), nothing, view, jnp.array([0, 0, 0.6]), True, 0.0)
    each = np.asarray(things.points).reshape(scene.THINGS, -1, 3)
    np.testing.assert_allclose(np.ptp(each, axis=1), 0, atol=1e-6)


def test_green_screen_alone_is_green():
    draw = jax.jit(jax.vmap(lambda key: background.random_background(key, 48, ('green_screen',))))
    pictures = np.asarray(draw(jax.random.split(jax.random.key(0), 16)))
    assert pictures.shape == (16, 48, 48, 3) and np.isfinite(pictures).all() and (pictures >= 0).all()
    mean = pictures.mean((1, 2))
    assert (mean[:, 1] > mean[:, [0, 2]].max(1)).all()
