import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments import ablation, loss_ablation
from hpe_jax.errors import UserError
from hpe_jax.metrics import NAMES

pytestmark = pytest.mark.slow

BAD = {'data.train_split': 'trian'}


@pytest.fixture(scope='module')
def compared(freihand_like, tmp_path_factory) -> tuple[dict, dict]:
    """The arguments and the results of a real comparison: one variant that works and one that cannot."""
    folder = tmp_path_factory.mktemp('ablation')
    fixed = {'data.manual_dir': str(freihand_like), 'data.data_dir': str(folder / 'data'), 'train.epochs': '2'}
    arguments = {
        'config_file': 'configs/tiny.py',
        'variants': {'iou': fixed, 'bad': {**fixed, **BAD}},
        'seeds': [3],
        'output': folder / 'out',
        'jobs': 2,
    }
    return arguments, ablation.compare(**arguments)


def test_a_failed_run_is_told_and_the_others_go_on(compared):
    arguments, results = compared
    iou, bad = (results['variants'][name]['seeds']['3'] for name in ('iou', 'bad'))
    assert iou['status'] == 'done' and len(iou['history']['train_loss']) == 2
    assert bad['status'] == 'failed' and "error: split 'trian'" in bad['reason']
    report = json.loads((arguments['output'] / 'iou/seed_3/report.json').read_text())
    assert iou['decoders']['mean']['error_pct'] == report['decoders']['mean']['error_pct']
    assert report['config']['seed'] == 3 and report['config']['train']['epochs'] == 2
    written = {path.name for path in arguments['output'].iterdir()}
    assert written == {'iou', 'bad', 'results.json', 'table.md', 'loss.png', 'pck.png', 'error_pct.png'}
    assert "failed: bad, seed 3: exit code 1: error: split 'trian'" in (arguments['output'] / 'table.md').read_text()


def test_given_again_only_what_failed_is_run(compared, monkeypatch):
    arguments, results = compared
    commands = []

    def run(command, **options):
        commands.append(command)
        assert not options.get('cwd')  # relative paths, such as config.data.data_dir, are those of the caller's folder
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(ablation.subprocess, 'run', run)
    again = [ablation.train(run, None) for run in ablation.plan(*list(arguments.values())[:4])]
    assert again[0] == results['variants']['iou']['seeds']['3']
    assert again[1]['reason'].startswith('exit code 7')
    assert [command[-1] for command in commands] == [f'--workdir={arguments["output"] / "bad/seed_3"}']


def test_a_report_of_another_config_does_not_count(compared):
    arguments, _ = compared
    (run,) = ablation.plan('configs/tiny.py', {'iou': arguments['variants']['iou']}, [3], arguments['output'])
    assert ablation.finished(run)
    longer = {'iou': {**arguments['variants']['iou'], 'train.epochs': '5'}}
    (run,) = ablation.plan('configs/tiny.py', longer, [3], arguments['output'])
    assert ablation.finished(run) is None


def test_a_run_finds_its_config_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run,) = ablation.plan('configs/tiny.py', {'mse': {'loss.name': 'mse'}}, [3], Path('out'))
    assert run.config().loss.name == 'mse'


def test_a_grid_holds_every_combination_and_does_not_split_tuples():
    variants = ablation.grid(['loss.name=iou,mse', 'model.widths=(4,8),(8,)'])
    assert list(variants.values()) == [
        {'loss.name': loss, 'model.widths': widths} for loss in ('iou', 'mse') for widths in ('(4,8)', '(8,)')
    ]
    assert ablation.grid([]) == {'baseline': {}}


def test_no_two_arms_share_a_folder():
    variants = ablation.grid(['data.train_split=train[:10],train[:10%],train', 'loss.name=iou,mse'])
    folders = [run.workdir for run in ablation.plan('configs/tiny.py', variants, [0, 1], Path('out'))]
    assert len(set(folders)) == 12 and not any(set('[]%: ') & set(str(folder)) for folder in folders)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'loss.nme': 'iou'}, 'no field config.loss.nme; the nearest is config.loss.name'),
        ({'loss.name': 'huber'}, "config.loss.name='huber': unknown"),
        ({'train.epochs': 'many'}, 'train.epochs'),
    ],
)
def test_an_arm_that_cannot_work_is_told_before_any_training(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        ablation.compare('configs/tiny.py', {'good': {}, 'bad': overrides}, [0], tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='want FIELD=VALUE'):
        ablation.grid(['loss.name'])


def result(error: float) -> dict:
    scores = {**dict.fromkeys(NAMES, 1.0), 'error_pct': error, 'auc_0_30px224': error / 100}
    return {'status': 'done', 'decoders': {'window': scores}}


def test_mean_and_spread_over_the_seeds_that_ended():
    runs = ablation.plan('configs/tiny.py', {'a': {}, 'b': {}}, [0, 1, 2], Path('unused'))
    assert [(run.seed, run.variant) for run in runs] == [(s, variant) for s in (0, 1, 2) for variant in 'ab']
    failed = {'status': 'failed', 'reason': 'it rained'}
    variants = ablation.summarise(runs, [result(4), result(8), result(5), failed, result(9), failed])
    assert variants['a']['mean']['window']['error_pct'] == 6
    assert variants['a']['std']['window']['error_pct'] == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert variants['b']['mean']['window']['error_pct'] == 8 and variants['b']['std']['window']['error_pct'] is None
    text = ablation.table(variants)
    assert '| a | 3 | window | 6.00 ± 2.65 |' in text and '0.060 ± 0.026 |' in text
    assert '| b | 1 of 3 | window | 8.00 |' in text
    assert '- failed: b, seed 1: it rained' in text


def test_every_loss_has_as_many_rates_and_the_best_on_validation_is_taken():
    assert {len(rates) for rates in loss_ablation.RATES.values()} == {3}
    tuning = {'variants': {}}
    for (loss, optimizer), rates in loss_ablation.RATES.items():
        for i, rate in enumerate(rates):
            run = {'status': 'done', 'best_epoch': 2, 'history': {'validation_error_pct': [0.0, (i - 1.2) ** 2]}}
            failed = {'status': 'failed', 'reason': ''}
            run = failed if (loss, i) == ('mse', 1) else run
            tuning['variants'][f'{loss}, {optimizer} {rate}'] = {'seeds': {'100': run}}
    variants = loss_ablation.variants(loss_ablation.RATES, tuning)
    assert variants['iou, adam tuned (0.003)'] == {
        'loss.name': 'iou', 'optimizer.name': 'adam', 'optimizer.learning_rate': '0.003'
    }  # fmt: skip
    assert 'mse, sgd tuned (30)' in variants and 'iou, sgd tuned (1)' in variants
    assert variants['mse, reference']['optimizer.learning_rate'] == '0.1'


def test_mses_rates_follow_the_share_of_background():
    from configs import loss_ablation as small
    from configs import unet

    assert loss_ablation.rates_for(small.get_config()) == loss_ablation.RATES
    assert loss_ablation.rates_for(unet.get_config())['mse', 'sgd'] == ('12', '40', '120')
