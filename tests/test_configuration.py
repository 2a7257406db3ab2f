import json
import re

import pytest

from configs import hands, tiny, unet
from hpe_jax import augment, configuration
from hpe_jax.errors import UserError


def save_as_before(config, workdir, *absent: str) -> None:
    """As a commit that did not know some sections or fields saved it."""
    nested = config.to_dict()
    for name in absent:
        *sections, field = name.split('.')
        place = nested
        for section in sections:
            place = place[section]
        del place[field]
    (workdir / 'config.json').write_text(json.dumps(nested))


LATER = (
    'init_from',
    'precision',
    'model.conv',
    'augment',
    'data.source',
    'data.live_preset',
    'data.live_batch',
    'train.scan_epochs',
)


def test_a_saved_config_is_loaded_as_it_was(tmp_path):
    config = unet.get_config()
    configuration.save(config, tmp_path)
    assert json.loads(configuration.load(tmp_path).to_json()) == json.loads(config.to_json())


def test_a_field_that_an_older_run_does_not_know_keeps_what_was(tmp_path):
    config = tiny.get_config()
    save_as_before(config, tmp_path, *LATER)
    assert configuration.fields(configuration.load(tmp_path).to_dict()).keys() == configuration.fields(config).keys()
    assert json.loads(configuration.load(tmp_path).to_json()) == json.loads(config.to_json())


def test_every_field_with_a_default_has_that_value_in_the_reference_recipe():
    fields = configuration.fields(unet.get_config())
    assert {name: fields[name] for name in configuration.DEFAULTS} == configuration.DEFAULTS


def test_an_older_run_goes_on_unless_a_later_field_changes_it(tmp_path):
    config = tiny.get_config()
    save_as_before(config, tmp_path, *LATER)
    configuration.check_same(config, tmp_path)
    config.data.source = 'live'
    with pytest.raises(UserError, match="data.source was 'tfdata' and is now 'live'"):
        configuration.check_same(config, tmp_path)


def test_a_field_without_a_default_that_the_saved_config_lacks_is_not_refused(tmp_path):
    config = tiny.get_config()
    save_as_before(config, tmp_path, 'train.images_every')
    configuration.check_same(config, tmp_path)


def test_what_older_runs_named_otherwise_is_moved(tmp_path):
    config = tiny.get_config()
    save_as_before(config, tmp_path, 'precision')
    nested = json.loads((tmp_path / 'config.json').read_text())
    nested['model']['dtype'] = 'bfloat16'
    (tmp_path / 'config.json').write_text(json.dumps(nested))
    assert configuration.load(tmp_path).precision == 'bfloat16'
    with pytest.raises(UserError, match="precision was 'bfloat16' and is now 'float32'"):
        configuration.check_same(config, tmp_path)


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
        ('[1, 2]', 'it holds list, not fields'),
        ('{"seed": 0}', 'is no whole config'),
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
    ],
)
def test_what_does_not_go_with_the_network_is_refused(change, message):
    config = unet.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=re.escape(message)):
        configuration.check(config)


def test_hosts_heatmaps_are_as_large_as_the_photos():
    config = hands.get_config()
    config.data.update(source='tfdata', targets='host')
    config.augment = unet.get_config().augment
    with pytest.raises(UserError, match='as large as the photos'):
        configuration.check(config)
