import importlib
import json
from pathlib import Path

import pytest

from hpe_jax import configuration, trained_model

CONFIGS = sorted(p for p in (Path(__file__).parents[1] / 'configs').glob('*.py') if p.stem != '__init__')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_a_config_is_valid_and_opens_with_its_command_and_expectation(path):
    module = importlib.import_module(f'configs.{path.stem}')
    configuration.check(module.get_config())
    assert f'--config=configs/{path.name} --workdir=' in module.__doc__
    assert 'Expected' in module.__doc__


def test_the_mse_ablation_differs_in_the_loss_alone():
    from configs import unet, unet_mse

    reference, ablation = unet.get_config(), unet_mse.get_config()
    assert ablation.loss.name == 'mse'
    ablation.loss.name = reference.loss.name
    assert ablation.to_dict() == reference.to_dict()


def test_the_reference_recipe():
    from configs import unet

    config = unet.get_config()
    assert (config.data.image_size, config.heatmap.sigma, config.model.widths) == (128, 3.0, (16, 32, 64, 128))
    assert (config.optimizer.name, config.optimizer.learning_rate) == ('sgd', 0.1)
    assert config.optimizer.plateau.to_dict() == {'factor': 0.5, 'patience': 21, 'rtol': 1e-5}
    train = config.train
    assert (train.batch_size, train.steps_per_epoch, train.validation_batches) == (48, 50, 20)
    assert train.early_stopping.to_dict() == {'window': 10, 'patience': 10}


def test_fine_tuning_starts_from_the_shipped_model():
    from configs import finetune

    config = finetune.get_config()
    assert trained_model.locate(config.init_from) == trained_model.SHIPPED
    shipped = configuration.load(trained_model.SHIPPED)
    for section in ('model', 'heatmap'):
        assert json.dumps(config[section].to_dict()) == json.dumps(shipped[section].to_dict())
    assert config.optimizer.learning_rate <= shipped.optimizer.learning_rate / 4 and not config.data.mean
