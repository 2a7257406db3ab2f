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


@pytest.mark.parametrize('xp', [np, jnp])
def test_similarity_by_hand(xp):
    """Half a pixel right of the point, turned counter-clockwise, lies above the target: y points down."""
    matrix = geometry.similarity(xp.asarray([6.0, 2.0]), xp.asarray([10.0, 20.0]), 4, 90)
    assert isinstance(matrix, np.ndarray if xp is np else jnp.ndarray)
    points = xp.asarray([[6.0, 2.0], [6.5, 2.0], [6.0, 3.0]])
    np.testing.assert_allclose(geometry.transform(points, matrix), [[10, 20], [10, 18], [14, 20]], atol=1e-5)
    there = geometry.transform(points, matrix)
    np.testing.assert_allclose(geometry.transform(there, geometry.inverse(matrix)), points, atol=1e-5)


def test_inverse_of_any_affine_map():
    matrix = np.array([[2.0, 0.5, 3.0], [-1.0, 1.5, -7.0]])
    whole = np.vstack([matrix, [0, 0, 1]])
    np.testing.assert_allclose(geometry.inverse(matrix), np.linalg.inv(whole)[:2], atol=1e-12)


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose two channels are the x and the y of each pixel's centre."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).astype(np.float32)


def test_a_picture_goes_where_its_points_go():
    """To another size and shape: each pixel shows, exactly, the point that is moved to its centre."""
    matrix = geometry.similarity(np.float32([15, 9]), np.float32([12, 20]), 1.6, 33.0)
    moved = geometry.warp(coordinates(20, 30), matrix, (40, 24))
    points = geometry.transform(coordinates(40, 24), geometry.inverse(matrix))
    whole = ((points >= 0.5) & (points <= [29.5, 19.5])).all(-1)  # no closer to an edge than its pixels' centres
    assert moved.shape == (40, 24, 2) and 0.4 < whole.mean() < 0.9
    np.testing.assert_allclose(np.asarray(moved)[whole], points[whole], atol=2e-5)


@pytest.mark.parametrize('degrees', [0, 90, 180, -90])
def test_a_right_angle_is_exact(degrees):
    image = np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8)
    matrix = geometry.similarity(np.float32([3.5, 3.5]), np.float32([3.5, 3.5]), 1.0, degrees)
    np.testing.assert_allclose(geometry.warp(image, matrix, (7, 7)), np.rot90(image, degrees // 90), atol=2e-3)


def test_a_reflected_picture_goes_on_without_a_seam():
    image = np.random.default_rng(4).integers(0, 256, (5, 7, 3), np.uint8)
    shifted = geometry.warp(image, np.float32([[1, 0, 5], [0, 1, 3]]), (11, 17), reflect=True)
    expected = np.pad(image, [(3, 3), (5, 5), (0, 0)], mode='symmetric')
    np.testing.assert_allclose(shifted, expected, atol=1e-3)
    half = geometry.warp(np.full_like(image, 90), np.float32([[1, 0, 5.5], [0, 1, 2.5]]), (11, 17), reflect=True)
    np.testing.assert_allclose(half, 90, atol=1e-3)


def test_outside_the_picture_lies_black_or_its_nearest_pixel():
    image = np.float32([[10, 20], [30, 40]])[..., None]
    matrix = np.float32([[1, 0, 1.5], [0, 1, 1]])  # right by one and a half pixels, down by one
    black = [[0, 0, 0, 0, 0], [0, 5, 15, 10, 0], [0, 15, 35, 20, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_allclose(geometry.warp(image, matrix, (4, 5))[..., 0], black, atol=1e-5)
    row, last = [10, 10, 15, 20, 20], [30, 30, 35, 40, 40]
    replicated = geometry.warp(image, matrix, (4, 5), replicate=True)[..., 0]
    np.testing.assert_allclose(replicated, [row, row, last, last], atol=1e-5)


def test_labels_of_real_photos_project_as_the_reference_projects_them(shared):
    from hpe_jax.data.freihand import folder

    part = folder.find(shared / 'freihand_mini', 'training')
    keypoints = np.load(shared / 'reference/parity.npz')['keypoints_true']
    np.testing.assert_allclose(np.tile(geometry.project(part.xyz, part.K), (4, 1, 1)) / 224, keypoints, atol=1e-9)


def test_a_crop_of_whole_pixels_is_a_slice_with_black_around():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(geometry.crop(image, (7, 4, 15, 12), 8), image[4:12, 7:15])
    beyond = geometry.crop(image, (-3, -2, 27, 28), 30)
    np.testing.assert_array_equal(beyond[2:22, 3:], image[:, :27])
    assert not beyond[:2].any() and not beyond[22:].any() and not beyond[:, :3].any()
    for box in ((-9, 0, -1, 8), (40, 0, 48, 8), (0, -9, 8, -1), (0, 25, 8, 33)):
        np.testing.assert_array_equal(geometry.crop(image, box, 8), np.zeros((8, 8, 3)))


@pytest.mark.parametrize('factor', [2, 3])
def test_a_crop_enlarged_pixel_by_pixel_shrinks_back(factor):
    """Antialiasing: where blocks of equal pixels shrink to one, a flat place keeps its value and a ramp its slope."""
    ramp = np.repeat(np.arange(0, 240, 5, np.uint8)[:, None, None], 48, 1) * np.ones(3, np.uint8)
    large = ramp.repeat(factor, 0).repeat(factor, 1)
    box = tuple(factor * edge for edge in (8, 8, 40, 40))
    np.testing.assert_allclose(geometry.crop(large, box, 32).astype(int), ramp[8:40, 8:40].astype(int), atol=1)


@pytest.mark.parametrize('shift', [0.0, 0.25, 0.5])
@pytest.mark.parametrize('size', [20, 40, 80])
def test_a_crops_points_are_where_the_convention_says(shift, size):
    """The centre of mass of a blob, at any scale and fraction of a pixel."""
    y, x = np.mgrid[:120, :150] + 0.5
    image = np.uint8(255 * np.exp(-((x - 71.3) ** 2 + (y - 55.8) ** 2) / (2 * 9**2)))[..., None].repeat(3, 2)
    box = 40 + shift, 25 - shift, 100 + shift, 85 - shift
    crop = geometry.crop(image, box, size)[..., 0].astype(float)
    rows, columns = (np.arange(size) + 0.5) * 60 / size, (np.arange(size) + 0.5) * 60 / size
    found = (crop.sum(0) * columns).sum() / crop.sum() + box[0], (crop.sum(1) * rows).sum() / crop.sum() + box[1]
    np.testing.assert_allclose(found, [71.3, 55.8], atol=0.06)


@pytest.mark.parametrize(('height', 'width'), [(600, 66_000), (66_000, 600), (30_000, 30_000)])
def test_a_crops_work_follows_its_own_size(height, width):
    """The pictures are views of one row or column: who looks at all of their pixels needs minutes, and gigabytes."""
    longer = max(height, width)
    ramp = np.uint8(np.arange(longer) * 256 // longer)
    ramp = ramp[None, :, None] if width == longer else ramp[:, None, None]
    corner = np.array([width - longer, height - longer]) / 2
    crop = geometry.crop(np.broadcast_to(ramp, (height, width, 3)), (*corner, *(corner + longer)), 128)
    sums = crop[..., 0].sum(0 if width == longer else 1, dtype=int)  # a thin strip's light is spread over few pixels
    thickness = 128 * min(height, width) / longer
    np.testing.assert_allclose(sums, (2 * np.arange(128) + 1) * thickness, atol=2 + thickness, rtol=0.02)


def test_a_fine_pattern_does_not_alias():
    checks = np.uint8(np.indices((400, 400)).sum(0) % 2 * 255)
    crop = geometry.crop(checks[..., None].repeat(3, 2), (3.3, 5.7, 390.1, 392.5), 20)
    np.testing.assert_allclose(crop.astype(int), 127.5, atol=3)
