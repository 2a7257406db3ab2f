import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from hpe_jax import optim

PLATEAU = {'factor': 0.5, 'patience': 3, 'rtol': 1e-5}


def rates(losses, steps_per_epoch=1, **plateau):
    """The scale of every step's update."""
    tx = optim.reduce_on_plateau(steps_per_epoch, **plateau)
    step = jax.jit(lambda state, loss: tx.update(jnp.ones(()), state, value=loss))
    state, scales = tx.init(jnp.zeros(())), []
    for loss in losses:
        update, state = step(state, jnp.float32(loss))
        scales.append(float(update))
    return scales


def pytorch_rates(losses, patience: int) -> list[float]:
    """ReduceLROnPlateau(factor=.5, patience, threshold=1e-5, 'rel') in plain Python: the rate after every epoch."""
    rate, best, bad, found = 1.0, np.inf, 0, []
    for loss in losses:
        best, bad = (loss, 0) if loss < best * (1 - 1e-5) else (best, bad + 1)
        if bad > patience:
            rate, bad = rate / 2, 0
        found.append(rate)
    return found


def test_halves_when_pytorch_does():
    losses = 0.5 + np.random.default_rng(0).random(200) * np.exp(-np.arange(200) / 40)
    ours = rates(np.append(losses, 1), **PLATEAU)
    assert ours[0] == 1 and ours[1:] == pytorch_rates(losses, patience=PLATEAU['patience'] - 1)
    assert len(set(ours)) > 4


def test_the_mean_of_an_epoch_counts_and_its_verdict_waits_for_the_next_epoch():
    epochs = [[3, 1], [1, 3], [4, 0], [1, 3], [2, 2]]  # every mean is 2: never better than the first
    scales = rates(np.ravel(epochs), steps_per_epoch=2, **PLATEAU)
    assert scales == [1] * 8 + [0.5] * 2


def test_rates_of_the_published_implementation(shared):
    parity = np.load(shared / 'reference/parity.npz')
    losses = parity['plateau_loss']
    ours = 0.1 * np.array(rates(np.append(losses, 1), factor=0.5, patience=21, rtol=1e-5))[1:]
    np.testing.assert_allclose(ours, parity['plateau_lr'], rtol=1e-6)


def test_chain_takes_plain_sgd_steps_and_reports_the_rate():
    config = ConfigDict({'name': 'sgd', 'learning_rate': 0.25, 'options': {}, 'plateau': PLATEAU})
    tx = optim.make(config, steps_per_epoch=1)
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for _ in range(5):
        rate = optim.learning_rate(config, state)
        update, state = tx.update(jnp.array([4.0, -4.0]), state, params, value=jnp.float32(1))
        np.testing.assert_allclose(update, [-4 * rate, 4 * rate])
    assert rate == 0.125


@pytest.mark.parametrize('case', [0, 1, 2])
def test_early_stopping_of_the_published_implementation(shared, case):
    parity = np.load(shared / 'reference/parity.npz')
    losses = parity[f'early_stop_loss_{case}'].tolist()
    stops = [epoch for epoch in range(len(losses)) if optim.should_stop(losses[: epoch + 1], window=10, patience=10)]
    assert (stops[0] if stops else -1) == parity[f'early_stop_epoch_{case}']


def test_early_stopping_by_hand():
    falling = [1.0, 0.9, 0.8]
    assert not optim.should_stop(falling, window=2, patience=1)
    # Means of two: .85 is the lowest; .85, .9, .95 have not fallen: more than one epoch of patience.
    assert not optim.should_stop([*falling, 0.9], window=2, patience=1)
    assert optim.should_stop([*falling, 0.9, 0.9], window=2, patience=1)
    assert not optim.should_stop([], window=2, patience=1)
    # A fall in the sixth decimal does not count.
    assert optim.should_stop([0.5, 0.5, 0.499999, 0.499998], window=1, patience=2)


def test_muon_turns_kernels_by_orthogonal_matrices_and_all_else_as_adam_does():
    rng = np.random.default_rng(0)
    params = {'kernel': jnp.ones((3, 3, 4, 8)), 'scale': jnp.ones(5)}
    grads = {name: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) for name, leaf in params.items()}
    tx = optim.OPTIMIZERS['muon'](0.01)
    updates, _ = tx.update(grads, tx.init(params), params)
    adam = optax.adam(0.01, nesterov=True)
    np.testing.assert_allclose(updates['scale'], adam.update(grads, adam.init(params))[0]['scale'], rtol=1e-5)
    kernel, gradient = (np.asarray(x['kernel']).reshape(36, 8) for x in (updates, grads))
    spread, before = (np.ptp(np.log(np.linalg.svd(x, compute_uv=False))) for x in (kernel, gradient))
    assert spread < np.log(1.7) and before > np.log(2)
    assert np.sqrt((kernel**2).mean()) == pytest.approx(0.2 * 0.01, rel=0.25)
    assert (kernel * gradient).sum() < 0


def test_the_cosine_schedule_at_its_corners():
    at = [0, 0.05, 0.1, 0.55, 1, 1.2]
    found = [float(optim.cosine_factor(progress, 0.1, 0.01)) for progress in at]
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.505, 0.01, 0.01], atol=1e-6)


def test_the_cosine_scales_each_step_by_the_part_that_is_done_of_whatever_the_horizon_is():
    cosine = {'warmup': 0.25, 'final': 0.0}
    config = ConfigDict({'name': 'sgd', 'learning_rate': 2.0, 'options': {}, 'schedule': 'cosine', 'cosine': cosine})
    tx = optim.make(config, steps_per_epoch=1)
    state = tx.init(jnp.zeros(()))
    steps = []
    for horizon in (8.0, 8.0, 4.0, 4.0):
        update, state = tx.update(jnp.ones(()), state, jnp.zeros(()), value=jnp.zeros(()), horizon=horizon)
        steps.append(float(update))
    factors = [0, 0.5, (1 + np.cos(np.pi / 3)) / 2, (1 + np.cos(np.pi * 2 / 3)) / 2]
    np.testing.assert_allclose(steps, [-2 * factor for factor in factors], atol=1e-6)
    assert optim.learning_rate(config, state, 16.0) == pytest.approx(2.0)


def test_a_large_gradient_is_clipped_to_the_norm():
    config = ConfigDict({'name': 'sgd', 'learning_rate': 1.0, 'options': {}, 'plateau': PLATEAU, 'clip': 5.0})
    tx = optim.make(config, steps_per_epoch=1)
    update, _ = tx.update(
        jnp.array([30.0, 40.0]), tx.init(jnp.zeros(2)), jnp.zeros(2), value=jnp.zeros(()), horizon=1.0
    )
    np.testing.assert_allclose(update, [-3, -4], rtol=1e-6)


def test_the_average_is_short_while_it_is_young():
    averaged, expected = {'w': jnp.zeros(2), 'n': jnp.array(0)}, np.zeros(2)
    for step in range(30):
        value = np.array([step, -1.0])
        averaged = optim.average(averaged, {'w': jnp.float32(value), 'n': jnp.array(step)}, jnp.array(step), 0.7)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(averaged['w'], expected, rtol=1e-5)
    assert averaged['n'] == 29


def test_muon_leaves_the_last_kernel_to_adam_with_its_own_rate():
    params = {'conv': {'kernel': jnp.ones((3, 3, 4, 8))}, 'maps': {'kernel': jnp.ones((1, 1, 8, 4))}, 'b': jnp.ones(3)}
    tx = optim.muon(0.1, adam_learning_rate=0.01)
    grads = jax.tree.map(lambda x: jnp.float32(np.random.default_rng(0).normal(size=x.shape)), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    for name in ('maps', 'b'):  # Adam's first step with Nesterov is 1.47 times the rate, whatever the gradient
        np.testing.assert_allclose(np.abs(jax.tree.leaves(updates[name])[0]), 0.01474, rtol=1e-2)
    rms = float(jnp.sqrt((updates['conv']['kernel'] ** 2).mean()))
    assert rms == pytest.approx(0.1 * 0.2, rel=0.3)
