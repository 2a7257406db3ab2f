import json
import re
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import hands, tiny, unet
from hpe_jax import augment, configuration
from hpe_jax.errors import UserError


def test_a_saved_config_is_loaded_as_it_was(tmp_path):
    config = unet.get_config()
    configuration.save(config, tmp_path)
    assert json.loads(configuration.load(tmp_path).to_json()) == json.loads(config.to_json())


@pytest.mark.parametrize('version', [None, 0, 2])
def test_a_run_of_another_format_is_refused(tmp_path, version):
    configuration.save(tiny.get_config(), tmp_path)
    nested = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(nested | {'format_version': version}))
    for use in (lambda: configuration.load(tmp_path), lambda: configuration.check_same(tiny.get_config(), tmp_path)):
        with pytest.raises(UserError, match=f'config.json: format_version {version}, but this hpe_jax reads 1'):
            use()


def test_an_option_that_was_not_given_is_another_config(tmp_path):
    config = tiny.get_config()
    config.optimizer.options = {'momentum': 0.9}
    configuration.save(config, tmp_path)
    config.optimizer.options = {'momentum': 0.9, 'nesterov': True}
    with pytest.raises(UserError, match='optimizer.options.nesterov was None and is now True'):
        configuration.check_same(config, tmp_path)


def test_fields_are_replaced_by_name(tmp_path):
    configuration.save(tiny.get_config(), tmp_path)
    loaded = configuration.load(
        tmp_path, {'data.manual_dir': 'FOLDER', 'eval.decoders.window.radius': 3, 'data.mean': ()}
    )
    assert loaded.data.manual_dir == 'FOLDER' and loaded.eval.decoders.window.radius == 3.0


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'data.manualdir': 'x'}, 'no field config.data.manualdir; the nearest is config.data.manual_dir'),
        ({'data.image_size': 'large'}, "config.data.image_size='large'"),
        ({'eval.decoder': 'best'}, 'choose from argmax, mean, softargmax, window'),
    ],
)
def test_wrong_fields_are_told(tmp_path, overrides, message):
    configuration.save(tiny.get_config(), tmp_path)
    with pytest.raises(UserError, match=message):
        configuration.load(tmp_path, overrides)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'is no run directory: it holds no config.json'),
        ('{"model":', 'config.json cannot be read'),
        ('[1, 2]', 'not a config but list'),
        ('{"seed": 0, "format_version": 1}', 'is no whole config'),
    ],
)
def test_a_directory_without_a_whole_config(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'config.json').write_text(content)
    with pytest.raises(UserError, match=message):
        configuration.load(tmp_path)


def test_augmentation_is_off_in_the_reference_recipe():
    assert not augment.is_on(unet.get_config().augment) and not unet.get_config().augment.quarter_turns
    assert set(unet.get_config().augment) == {'left', 'quarter_turns', 'fill', *augment.RANGES}


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('rotation', 181, 'config.augment.rotation=181.0: must lie between 0 and 180'),
        ('hue', 0.6, 'config.augment.hue=0.6: must lie between 0 and 0.5'),
        ('blur', -1.0, 'config.augment.blur=-1.0: must lie between 0 and 10'),
        ('scale', float('nan'), 'config.augment.scale=nan: must lie between 0 and 1'),
        ('fill', 'grey', "config.augment.fill='grey': unknown; choose from black, replicate, reflect, random"),
    ],
)
def test_augmentation_out_of_its_range(field, value, message):
    config = tiny.get_config()
    config.data.targets = 'device'
    config.augment[field] = value
    with pytest.raises(UserError, match=re.escape(message)):
        configuration.check(config)


@pytest.mark.parametrize('field', ['quarter_turns', 'rotation', 'noise'])
def test_what_the_host_has_made_cannot_be_augmented(field):
    config = tiny.get_config()
    config.augment[field] = True if field == 'quarter_turns' else 0.5
    with pytest.raises(UserError, match=f"augment.{field}: the host's .* set data.targets='device'"):
        configuration.check(config)
    for section, value in ('targets', 'device'), ('source', 'resident'), ('source', 'live'):
        able = config.copy_and_resolve_references()
        able.data[section] = value
        configuration.check(able)


def test_processes_of_one_run_have_one_config_in_one_place(tmp_path):
    config = tiny.get_config()
    with pytest.raises(UserError, match='all processes need the same command'):
        configuration.check_alike(config, tmp_path)
    configuration.save(config, tmp_path)
    config.data.data_dir = '/local/disk'
    configuration.check_alike(config, tmp_path)
    config.train.images_every = 7
    with pytest.raises(UserError, match='all processes need the same command'):
        configuration.check_alike(config, tmp_path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'heatmap.stride': 4}, 'config.heatmap.stride=4: unknown; choose from 1'),
        ({'heatmap.activation': 'relu'}, "config.heatmap.activation='relu': unknown; choose from sigmoid, softmax"),
        ({'optimizer.schedule': 'step'}, "config.optimizer.schedule='step': unknown; choose from plateau, cosine"),
        ({'loss.presence': 1.0}, 'config.loss.presence=1.0: unet has no such head; set 0'),
        ({'augment.left': 1.5}, 'config.augment.left=1.5: must lie between 0 and 1'),
        (
            {'data.joints': 'freihand, nyu'},
            "config.data.joints='nyu': unknown; choose from freihand, rhd, interhand, names",
        ),
        ({'data.handedness': 'both'}, "config.data.handedness='both': unknown; choose from right, left"),
        ({'data.relative_hand_size': 0.0}, 'config.data.relative_hand_size=0.0: must lie between 0.01 and 1'),
    ],
)
def test_what_does_not_go_with_the_network_is_refused(change, message):
    config = unet.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=re.escape(message)):
        configuration.check(config)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model.blocks': (1, 2)}, 'config.model.blocks=(1, 2): must be 3 whole numbers of residual blocks'),
        ({'model.blocks': (1, 2, -1)}, 'config.model.blocks=(1, 2, -1): must be 3 whole numbers'),
        ({'model.widths': (16, 24, 56, 112)}, 'config.model.blocks=(2, 4, 2): must be 2 whole numbers'),
        ({'model.depth': 3}, 'config.model.depth: handnet has no such option; leave it out'),
        ({'data.context': 0.5}, 'config.data.context=0.5: must lie between 1 and 4'),
    ],
)
def test_what_does_not_go_with_the_hands_network_is_refused(change, message):
    config = hands.get_config()
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=re.escape(message)):
        configuration.check(config)


def test_hosts_heatmaps_are_as_large_as_the_photos():
    config = hands.get_config()
    config.data.update(source='tfdata', targets='host')
    config.augment = unet.get_config().augment
    with pytest.raises(UserError, match='as large as the photos'):
        configuration.check(config)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('train.validation_batches', 0, 'must be at least 1'),
        ('train.early_stopping.window', 0, 'must be at least 1'),
        ('train.early_stopping.patience', -1, 'must be at least 0'),
        ('train.average', 1.5, 'must lie between 0 and 1'),
        ('optimizer.learning_rate', float('nan'), 'must lie between 0 and 1e'),
        ('optimizer.cosine.warmup', -0.1, 'must lie between 0 and 1'),
        ('heatmap.sigma', 0.0, 'must lie between 0.01 and 1000'),
        ('seed', -1, 'must be at least 0'),
        ('model.widths', (), 'must be whole numbers of channels'),
        ('model.widths', (0,), 'must be whole numbers of channels'),
        ('model.widths', (-4, 8), 'must be whole numbers of channels'),
    ],
)
def test_numbers_out_of_their_range_are_refused(field, value, message):
    config = unet.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f'config.{field}=.*: {message}'):
        configuration.check(config)


@pytest.mark.parametrize(
    ('section', 'name', 'options', 'reason'),
    [
        ('optimizer', 'sgd', {'momentun': 0.9}, "sgd does not take them: .* unexpected keyword argument 'momentun'"),
        ('optimizer', 'adam', {'learning_rate': 1.0}, "adam does not take them: .* argument 'learning_rate'"),
        ('optimizer', 'adamw', {'b1': 'a'}, 'adamw does not take them: unsupported operand'),
        ('loss', 'iou', {'eps': 1.0}, "iou does not take them: .* unexpected keyword argument 'eps'"),
    ],
)
def test_options_that_the_optimiser_or_the_loss_does_not_take(section, name, options, reason):
    config = unet.get_config()
    config[section].update(name=name, options=options)
    with pytest.raises(UserError, match=f'config.{section}.options={re.escape(str(options))}: {reason}'):
        configuration.check_options(config)


@pytest.mark.parametrize(
    ('decoder', 'options', 'message'),
    [
        ('window', {'radius': -1.0}, 'window.radius=-1.0: must be a number over 0'),
        ('window', {'radius': float('inf')}, 'window.radius=inf: must be a number over 0'),
        ('window', {'radius': float('nan')}, 'window.radius=nan: must be a number over 0'),
        ('softargmax', {'temperature': 'a'}, "softargmax.temperature='a': must be a number over 0"),
        ('window', {'radiuss': 3.0}, "window={'radiuss': 3.0}: window does not take them: .*'radiuss'"),
    ],
)
def test_options_that_a_decoder_does_not_take(decoder, options, message):
    config = unet.get_config()
    config.eval.decoders = ConfigDict({decoder: options})
    with pytest.raises(UserError, match=f'config.eval.decoders.{message}'):
        configuration.check_options(config)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'mean': (100.7, 110.2, 75.3), 'std': (0.2, 0.2, 0.2)}, 'mean=.*: must be numbers from 0 to 1'),
        ({'mean': (0.4, 0.4, 'a'), 'std': (0.2, 0.2, 0.2)}, 'mean=.*: must be numbers from 0 to 1'),
        ({'mean': (0.4, 0.4, 0.4), 'std': (0.0, 0.2, 0.2)}, 'std=.*: must be numbers from 1e-06 to 1'),
    ],
)
def test_channel_statistics_that_cannot_be(values, message):
    config = unet.get_config()
    config.data.update(values)
    with pytest.raises(UserError, match=f'config.data.{message}'):
        configuration.check(config)


def test_heads_alone_cannot_be_trained_without_one():
    config = unet.get_config()
    config.train.heads_only = True
    with pytest.raises(UserError, match='config.train.heads_only: there is no head to train'):
        configuration.check(config)


def test_options_are_set_on_the_command_line_as_a_dict(monkeypatch):
    values = flags.FlagValues()
    options = "--config.optimizer.options={'momentum': 0.9, 'nesterov': True}"
    monkeypatch.setattr('sys.argv', ['main', f'--config={configuration.find_file("configs/tiny.py")}', options])
    config_flags.DEFINE_config_file('config', flag_values=values)
    values(sys.argv)
    assert values.config.optimizer.options.to_dict() == {'momentum': 0.9, 'nesterov': True}
    configuration.check_options(values.config)


def test_how_a_run_is_scored_makes_no_other_run(tmp_path):
    config = tiny.get_config()
    configuration.save(config, tmp_path)
    digest, older = configuration.digest(config), configuration.digest(config, configuration.ONCE_FIXED)
    config.eval.update(batch_size=7, decoder='mean')
    configuration.check_same(config, tmp_path)
    assert configuration.digest(config) == digest
    assert configuration.digest(config, configuration.ONCE_FIXED) != older != digest


def test_every_number_of_the_recipes_has_a_range():
    free = {'heatmap.stride', 'loss.options', 'optimizer.options'}  # chosen from a list, or the library's own
    for recipe in (unet, hands):
        numbers = {name for name, x in configuration.fields(recipe.get_config()).items() if type(x) in (int, float)}
        unknown = {name for name in numbers - configuration.RANGES.keys() - free if 'options' not in name}
        assert not {name for name in unknown if not name.startswith('eval.decoders')}


def test_a_config_file_is_found_from_any_folder_and_ones_own_first(tmp_path, monkeypatch):
    shipped = Path(configuration.__file__).parents[1] / 'configs/tiny.py'
    monkeypatch.chdir(tmp_path)
    assert configuration.find_file('configs/tiny.py') == shipped
    for given in (['--config=configs/tiny.py'], ['--config', 'configs/tiny.py']):
        found = configuration.find_file_in(['main', *given, '--config.seed=3'])
        assert found == ['main', *(x.replace('configs/tiny.py', str(shipped)) for x in given), '--config.seed=3']
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/tiny.py').touch()
    assert configuration.find_file('configs/tiny.py').samefile(tmp_path / 'configs/tiny.py')
    with pytest.raises(UserError, match='--config=configs/absent.py: no such config file'):
        configuration.find_file_in(['--config=configs/absent.py'])


def test_fields_that_an_older_run_directory_lacks_have_their_meaning_there(tmp_path):
    config = tiny.get_config()
    nested = config.to_dict()
    for field in configuration.ADDED:
        section, name = field.split('.')
        del nested[section][name]
    (tmp_path / 'config.json').write_text(json.dumps({'format_version': 1, **nested}))
    assert configuration.load(tmp_path, {'data.joints': 'rhd'}).data.joints == 'rhd'
    configuration.check_same(config, tmp_path)
    assert configuration.digest(nested) == configuration.digest(config)
    config.data.handedness = 'left'
    assert configuration.digest(nested) != configuration.digest(config)
    with pytest.raises(UserError, match="data.handedness was 'right' and is now 'left'"):
        configuration.check_same(config, tmp_path)
