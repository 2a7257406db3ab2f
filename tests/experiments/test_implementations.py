"""What the benchmarks compare computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import implementations
from hpe_jax import losses, models
from hpe_jax.errors import UserError
from hpe_jax.models import unet

pytestmark = pytest.mark.slow

WIDTHS = (4, 6, 8)


def leaves(ours, theirs):
    """(array of ours, parameter of theirs) of every part, in the same layout."""

    def of_block(block, baseline):
        for norm, conv, i in (block['norm1'], block['conv1'], 0), (block['norm2'], block['conv2'], 3):
            yield norm['scale'], baseline[i].weight
            yield norm['bias'], baseline[i].bias
            yield conv['kernel'].transpose(3, 2, 0, 1), baseline[i + 1].weight

    for side in ('down', 'up'):
        for i, baseline in enumerate(getattr(theirs, side)):
            yield from of_block(ours[side][i], baseline)
    yield from of_block(ours['bottleneck'], theirs.bottleneck)
    yield ours['out']['kernel'].transpose(3, 2, 0, 1), theirs.out.weight


def leaves_of_handnet(ours, theirs):
    """The same of a HandNet."""

    def of_block(block, baseline):
        yield block['conv']['kernel'].transpose(3, 2, 0, 1), baseline[0].weight
        yield from of_norm(block['norm'], baseline[1])

    def of_norm(norm, baseline):
        yield norm['scale'], baseline.weight
        yield norm['bias'], baseline.bias

    def of_residual(block, baseline):
        yield from of_block(block['block'], baseline.block)
        yield block['conv']['kernel'].transpose(3, 2, 0, 1), baseline.conv.weight
        yield from of_norm(block['norm'], baseline.norm)

    for i, baseline in enumerate(theirs.stem):
        yield from of_block(ours['stem'][i], baseline)
    for side in ('down', 'back'):
        for i, (first, *residual) in enumerate(getattr(theirs, side)):
            yield from of_block(ours[side][i][0], first)
            for j, baseline in enumerate(residual, 1):
                yield from of_residual(ours[side][i][j], baseline)
    yield ours['maps']['kernel'].transpose(3, 2, 0, 1), theirs.maps.weight
    yield ours['maps']['bias'], theirs.maps.bias
    for name in ('hidden', 'heads'):
        yield ours[name]['kernel'].T, getattr(theirs, name).weight
        yield ours[name]['bias'], getattr(theirs, name).bias


def test_handnets_twin_has_its_loss_and_gradients():
    torch = pytest.importorskip('torch')
    from experiments import pytorch_baseline

    settings = {'network': 'handnet', 'size': 32, 'batch_size': 4, 'dataset': '', 'data_dir': ''}
    config = implementations.config_of(settings)
    config.model.update(widths=(4, 6, 8, 8), blocks=(1, 2), conv='xla')
    model = models.make(config)
    baseline = pytorch_baseline.HandNet(config.model.widths, config.model.blocks)
    images, heatmaps = implementations.example(settings)
    assert heatmaps.shape == (4, 8, 8, 21)
    weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    pairs = list(leaves_of_handnet(weights, baseline))
    assert len(pairs) == len(list(baseline.parameters())) == len(jax.tree.leaves(weights))
    with torch.no_grad():
        for array, parameter in pairs:
            parameter.copy_(torch.from_numpy(np.array(array)))

    def loss(model):
        logits = model.logits(jnp.asarray(images))
        yes = jnp.ones(len(images), bool)
        heads = (config.loss[name] * losses.binary(logits[name], yes).mean() for name in model.HEADS)
        return losses.per_keypoint('cross_entropy', logits['heatmaps'], jnp.asarray(heatmaps)).mean() + sum(heads)

    ours, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
    photos, maps = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in (images, heatmaps))
    theirs = pytorch_baseline.loss_of(baseline(photos), maps)
    theirs.backward()
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-5)
    for array, parameter in leaves_of_handnet(nnx.to_pure_dict(gradients), baseline):
        np.testing.assert_allclose(array, parameter.grad, rtol=1e-2, atol=1e-4)


def test_the_unets_twin_has_its_loss_and_gradients():
    torch = pytest.importorskip('torch')
    from experiments import pytorch_baseline

    model, baseline = unet.UNet(widths=WIDTHS, rngs=nnx.Rngs(0)), pytorch_baseline.UNet(WIDTHS)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 16, 16, 3), np.float32)
    heatmaps = rng.random((3, 16, 16, 21), np.float32)
    weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    pairs = list(leaves(weights, baseline))
    assert len(pairs) == len(list(baseline.parameters())) == len(jax.tree.leaves(weights))
    with torch.no_grad():
        for array, parameter in pairs:
            parameter.copy_(torch.from_numpy(np.array(array)))

    def loss(model):
        return losses.per_keypoint('iou', model(jnp.asarray(images)), jnp.asarray(heatmaps)).mean()

    ours, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
    predicted, true = baseline(torch.from_numpy(images.transpose(0, 3, 1, 2))), torch.from_numpy(heatmaps)
    theirs = pytorch_baseline.iou_loss(predicted, true.permute(0, 3, 1, 2))
    theirs.backward()
    assert float(ours) == pytest.approx(theirs.item(), abs=1e-6)
    for array, parameter in leaves(nnx.to_pure_dict(gradients), baseline):
        np.testing.assert_allclose(array, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(('only', 'message'), [('nobody', 'finds none of ours; '), ('[', 'no regular expression')])
def test_contenders_that_do_not_exist(only, message):
    with pytest.raises(UserError, match=message):
        implementations.chosen(False, only)


def test_operations_are_those_of_the_networks_kernels():
    """The two kernels of a block work at one size; 6 operations a weight and pixel, forward and backward."""
    model = unet.UNet(rngs=nnx.Rngs(0))
    blocks = [(block, level) for level, block in enumerate((*model.down, model.bottleneck))]
    blocks += [(block, level) for level, block in enumerate(reversed(model.up))]
    weights = [(kernel.size, level) for block, level in blocks for kernel in (block.conv1.kernel, block.conv2.kernel)]
    weights.append((model.out.kernel.size, 0))
    settings = {'network': 'unet', 'batch_size': 2, 'size': 128, 'dataset': '', 'data_dir': ''}
    expected = sum(6 * size * (128 >> level) ** 2 for size, level in weights)
    assert implementations.flops(settings) == 2 * expected
