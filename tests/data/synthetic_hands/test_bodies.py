import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.data.synthetic_hands import bodies, collage

PART = {name: number for number, name in enumerate(bodies.FACE)}


@pytest.fixture(scope='module')
def many():
    """Faces and limbs of 256 keys, of which three in four have a body."""
    draw = jax.jit(jax.vmap(lambda key: bodies.random_body(key, 0.75)))
    return draw(jax.random.split(jax.random.key(0), 256))


def test_an_image_has_one_body_or_none_by_the_fraction(many):
    face, limb = (np.asarray(shapes.half).max((1, 2)) > 0 for shapes in many)
    assert not (face & limb).any()
    np.testing.assert_allclose([face.mean(), limb.mean()], [0.75 * 0.65, 0.75 * 0.35], atol=0.08)


def test_a_face_is_about_the_middle_and_its_parts_in_their_places(many):
    face, _ = many
    shown = np.asarray(face.half).max((1, 2)) > 0
    centre, tilt = np.asarray(face.centre)[shown], np.asarray(face.angle)[shown, PART['left eye']]
    head, lips, brow = (centre[:, PART[name]] for name in ('head', 'lips', 'left brow'))
    assert np.abs(np.median(head, 0) - 0.5).max() < 0.1 and (np.abs(head - 0.5) < 0.45).all()
    down = np.stack([-np.sin(tilt), np.cos(tilt)], -1)  # the head's own
    assert (((lips - head) * down).sum(-1) > 0).all() and (((brow - lips) * down).sum(-1) < 0).all()
    left, right = (centre[:, PART[f'{side} eye']] for side in ('left', 'right'))
    width = np.linalg.norm(right - left, axis=-1) / np.asarray(face.half)[shown, PART['head'], 1]
    assert width.max() < 1.1 and width.min() < 0.7  # from the front, and turned


def test_toes_come_with_a_foot_which_is_about_the_middle(many):
    _, limb = many
    half, centre = np.asarray(limb.half), np.asarray(limb.centre)
    shown, foot = half[:, 1].max(-1) > 0, half[:, 4, 0] > 0
    np.testing.assert_array_equal((half[:, 5:, 0] > 0).all(1), foot)
    np.testing.assert_array_equal((half[:, 5:, 0] > 0).any(1), foot)
    middle = np.where(foot[:, None], centre[:, 4], centre[:, 1])[shown]
    assert 0.4 < foot[shown].mean() < 0.8 and np.abs(middle - 0.5).max() < 0.7


def test_near_parts_are_drawn_over_far_ones():
    def draw(key):
        k_face, k_draw = jax.random.split(key)
        face = bodies.random_face(k_face, jnp.array(True))
        plain = face._replace(pattern=0 * face.pattern, slope=0 * face.slope, bulge=0 * face.bulge)
        return face, collage.draw(k_draw, jnp.zeros((64, 64, 3)), plain)

    faces, images = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 24))
    checked = 0
    for centre, half, colour, image in zip(faces.centre, faces.half, faces.colour, np.asarray(images), strict=True):
        column, row = (np.asarray(centre[PART['lips']]) * 64).astype(int)
        # Lips without teeth, of two pixels or more, inside the image and before the neck, the chin and the beard.
        if (
            half[PART['teeth']].max() == 0
            and half[PART['lips']].min() > 1.5 / 64
            and 0 <= row < 64
            and 0 <= column < 64
        ):
            np.testing.assert_allclose(image[row, column], colour[PART['lips']], atol=1e-5)
            checked += 1
    assert checked >= 4


def test_an_image_without_a_body_stays_as_it_was():
    @jax.jit
    def drawn_over(shown):
        k_face, k_draw = jax.random.split(jax.random.key(2))
        return collage.draw(k_draw, jnp.full((32, 32, 3), 0.4), bodies.random_face(k_face, shown))

    np.testing.assert_array_equal(drawn_over(jnp.array(False)), np.float32(0.4))
    assert np.abs(drawn_over(jnp.array(True)) - 0.4).max() > 0.05
