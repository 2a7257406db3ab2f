import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import losses


def maps(seed: int = 0, shape=(2, 6, 5, 3)):
    return jax.random.uniform(jax.random.key(seed), shape)


def test_iou_by_hand():
    target = jnp.array([[1.0, 0.5], [0, 0]])
    predicted = jnp.array([[0.5, 0.5], [0.5, 0]])
    # t·p = .75, t² = 1.25, p² = .75: IoU = .75 / 1.25
    assert losses.iou(predicted, target, epsilon=0.0) == pytest.approx(0.4)


def test_mse_by_hand():
    assert losses.mse(jnp.array([[0.5, 0.0]]), jnp.array([[1.0, 1.0]])) == pytest.approx((0.25 + 1) / 2)


def test_balanced_mse_by_hand():
    target, predicted = jnp.array([[1.0, 0.5], [0, 0]]), jnp.array([[0.0, 0.5], [0.5, 0]])
    # Errors 1, 0, .25, 0: foreground 1 / 1.5, background .25 / 2.5
    assert losses.balanced_mse(predicted, target) == pytest.approx((1 / 1.5 + 0.1) / 2)
    assert losses.balanced_mse(predicted, jnp.zeros((2, 2))) == pytest.approx((0.25 + 0.25) / 4 / 2)


@pytest.mark.parametrize('size', [16, 64])
def test_where_the_prediction_is_empty_mse_alone_pulls_less_on_a_larger_map(size):
    """The peak's gradient: of MSE it falls with the map's area, of the others it does not."""
    row = jnp.exp(-0.5 * ((jnp.arange(size) - 8) / 2.0) ** 2)
    target = row[:, None] * row[None]
    slopes = {name: -jax.grad(loss)(jnp.full_like(target, 1e-3), target)[8, 8] for name, loss in losses.LOSSES.items()}
    assert slopes['mse'] == pytest.approx(2 * 0.999 / size**2, rel=1e-3)
    assert slopes['iou'] == pytest.approx(1 / float((target**2).sum()), rel=0.02)
    assert slopes['balanced_mse'] == pytest.approx(0.999 / float(target.sum()), rel=1e-3)


@pytest.mark.parametrize('loss', [name for name in losses.LOSSES if name not in losses.OF_LOGITS])
def test_zero_on_identity_and_positive_elsewhere(loss):
    np.testing.assert_allclose(losses.per_keypoint(loss, maps(), maps()), 0, atol=1e-6)
    assert (losses.per_keypoint(loss, maps(1), maps()) > 0.01).all()


@pytest.mark.parametrize('loss', losses.LOSSES)
def test_permuted_joints_permute_the_losses(loss):
    order = jnp.array([2, 0, 1])
    plain = losses.per_keypoint(loss, maps(1), maps(2))
    permuted = losses.per_keypoint(loss, maps(1)[..., order], maps(2)[..., order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-6)
    assert len(set(np.asarray(plain).ravel().tolist())) == plain.size


@pytest.mark.parametrize('loss', losses.LOSSES)
def test_a_masked_keypoint_has_zero_gradient_and_does_not_dilute_the_mean(loss):
    counts = jnp.array([[True, False, True], [True, True, True]])

    def total(predicted):
        return losses.masked_mean(losses.per_keypoint(loss, predicted, maps(2)), counts)

    gradient = jax.grad(total)(maps(1))
    assert not gradient[0, ..., 1].any()
    assert jnp.abs(gradient).sum((1, 2))[counts].min() > 0
    values = losses.per_keypoint(loss, maps(1), maps(2))
    assert total(maps(1)) == pytest.approx(float(values[counts].mean()), rel=1e-6)


def test_mean_over_nothing_is_zero():
    assert losses.masked_mean(jnp.ones((2, 3)), jnp.zeros((2, 3), bool)) == 0


def test_iou_of_two_empty_maps_is_perfect():
    assert losses.iou(jnp.zeros((4, 4)), jnp.zeros((4, 4))) == 0


def test_cross_entropy_by_hand():
    rng = np.random.default_rng(3)
    logits, target = rng.normal(size=(4, 6)), rng.random((4, 6))
    softmax, share = np.exp(logits) / np.exp(logits).sum(), target / target.sum()

    def ours(logits, target=target):
        return float(losses.cross_entropy(jnp.float32(logits), jnp.float32(target)))

    assert ours(logits) == pytest.approx(-(share * np.log(softmax)).sum(), rel=1e-5)
    assert ours(logits + 50) == pytest.approx(ours(logits), rel=1e-4)
    entropy = -(share * np.log(share)).sum()
    assert ours(np.log(target)) == pytest.approx(entropy, rel=1e-5) and ours(logits) > entropy
    assert ours(logits, np.zeros((4, 6))) == 0


def test_binary_by_hand_and_far_from_zero():
    logits, truth = jnp.float32([2.0, 2.0, 1e4, -1e4]), jnp.array([True, False, False, True])
    expected = [np.log1p(np.exp(-2)), np.log1p(np.exp(2)), 1e4, 1e4]
    np.testing.assert_allclose(losses.binary(logits, truth), expected, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: losses.binary(x, truth).sum())(logits)).all()
