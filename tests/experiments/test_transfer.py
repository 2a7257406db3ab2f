"""The variants of the ablation of the hands recipe, and its table."""

import json
from pathlib import Path

import numpy as np

from configs import transfer
from experiments import ablation
from experiments import transfer as experiment
from hpe_jax import configuration
from hpe_jax.data import features


def test_every_variant_is_the_recipe_but_for_its_own_fields():
    recipe = configuration.fields(transfer.get_config().to_dict())
    for run in ablation.plan('configs/transfer.py', experiment.VARIANTS, [3], Path('runs')):
        changed = {
            name
            for name, value in configuration.fields(run.config().to_dict()).items()
            if value != recipe.get(name) and not name.startswith('optimizer.options')
        }
        wanted = set(experiment.VARIANTS[run.variant]) - {'optimizer.options'}
        assert changed - {'seed'} <= wanted and bool(changed - {'seed'}) == (run.variant != 'the recipe')
        assert run.config().train.epochs * run.config().train.steps_per_epoch == 250


def test_long_runs_differ_in_their_number_of_renders_alone():
    runs = ablation.plan('configs/transfer.py', experiment.LONG_VARIANTS, [0], Path('runs'))
    assert [run.config().data.train_split for run in runs] == ['train[:6000]', 'train[:20000]', 'train[:60000]']
    same = {'data.train_split': '', 'data.dataset': ''}
    first, *others = [configuration.fields(run.config().to_dict()) | same for run in runs]
    assert all(config == first for config in others)


def test_the_large_set_has_60000_to_train_on_and_its_test_split_is_new_to_the_smaller_one():
    small, large = (
        features.split_bounds(int(name.split('_')[2]))
        for name in (transfer.get_config().data.dataset, experiment.LARGE)
    )
    assert len(large['train']) >= 60_000 and large['test'].start >= small['test'].stop


def test_a_long_run_has_144000_samples():
    runs = ablation.plan('configs/transfer.py', experiment.LONG_VARIANTS, [0], Path('runs'))
    train = runs[0].config().train
    assert train.epochs * train.steps_per_epoch * train.batch_size == 144_000


def test_without_augmentation_no_field_of_it_is_on():
    variants = {'none': experiment.VARIANTS['no augmentation']}
    (run,) = ablation.plan('configs/transfer.py', variants, [0], Path('runs'))
    augment = run.config().augment.to_dict()
    assert not any(value for name, value in augment.items() if name != 'fill')


def test_the_table_has_a_mean_and_a_spread_of_each_column():
    groups = {'renders', 'freihand_like', 'other_sets'}
    scores = {
        variant: [{group: {'nme_box': n, 'pck@0.2_box': 1 - n} for group in groups} for n in values]
        for variant, values in {'a': (0.1, 0.2, 0.3), 'b': (0.4, 0.4, 0.4)}.items()
    }
    variants = json.loads(json.dumps(experiment.summarise(scores)))
    np.testing.assert_allclose(variants['a']['synthetic nme'], [0.1, 0.2, 0.3])
    lines = experiment.table(variants).splitlines()
    assert lines[2] == '| a | 0.200 ± 0.100 | 0.800 ± 0.100 | 0.200 ± 0.100 | 0.800 ± 0.100 | 0.200 ± 0.100 |'
    assert len(lines) == 4 and '0.400 ± 0.000' in lines[3]
