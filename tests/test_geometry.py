import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import geometry


@pytest.mark.parametrize('xp', [np, jnp])
def test_project_is_K_xyz_over_z(xp):
    K = np.array([[480.0, 0, 112], [0, 500, 110], [0, 0, 1]])
    xyz = np.tile([0.1, -0.2, 0.5], (21, 1))
    uv = geometry.project(xp.asarray(xyz), xp.asarray(K))
    np.testing.assert_allclose(uv, np.tile([480 * 0.2 + 112, 500 * -0.4 + 110], (21, 1)), rtol=1e-6)


def test_a_point_on_the_axis_lands_on_the_principal_point_at_any_depth():
    K = np.array([[480.0, 0, 112], [0, 480, 112], [0, 0, 1]])
    xyz = np.zeros((2, 21, 3))
    xyz[0, :, 2], xyz[1, :, 2] = 0.3, 3
    np.testing.assert_allclose(geometry.project(xyz, np.stack([K, K])), 112, rtol=1e-15)


def test_inside_frame_holds_its_low_edges_and_not_its_high_ones():
    points = np.array([[0, 0], [0.999, 0.5], [1, 0.5], [0.5, 1], [-1e-9, 0.5], [0.5, -1]])
    assert geometry.inside_frame(points).tolist() == [True, True, False, False, False, False]


def test_pixel_centres_lie_half_a_pixel_in():
    np.testing.assert_allclose(geometry.pixel_centres(4), [0.125, 0.375, 0.625, 0.875])


def test_box_side_is_the_longer_side_of_what_is_visible():
    keypoints = np.zeros((21, 2))
    keypoints[3] = [0.25, 0.5]
    keypoints[7] = [0.75, 9.0]
    visible = np.ones(21, bool)
    assert geometry.box_side(keypoints, visible) == 9.0
    visible[7] = False
    assert geometry.box_side(keypoints, visible) == 0.5


def test_labels_of_real_photos_project_as_the_reference_projects_them(shared):
    from hpe_jax.data.freihand import folder

    part = folder.find(shared / 'freihand_mini', 'training')
    keypoints = np.load(shared / 'reference/parity.npz')['keypoints_true']
    np.testing.assert_allclose(np.tile(geometry.project(part.xyz, part.K), (4, 1, 1)) / 224, keypoints, atol=1e-9)
