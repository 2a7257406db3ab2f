"""What of the hands recipe transfers to real photos: one thing of it changed at a time, at equal samples.

    python -m experiments.transfer --output=runs/transfer --real=FOLDER [--seeds=0,1,2] [--jobs=2] [--dry_run]
    python -m experiments.transfer --output=runs/renders --real=FOLDER --long    how many renders: 144,000 samples a run

Each variant is trained with every seed, and scored on 960 test renders of the base config (the long ones: of LARGE) and
on the photos of FOLDER (see experiments/hands.py), by one look at the crop of the true box. OUTPUT is resumable, as in
ablation.py; it then holds transfer.json, too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from configs import unet
from experiments import ablation, hands
from hpe_jax import files, logbook, trained_model
from hpe_jax.errors import UserError
from hpe_jax.inference.estimator import HandPoseEstimator

VARIANTS = {
    'the recipe': {},
    'IoU': {'loss.name': 'iou', 'heatmap.activation': 'sigmoid'},
    'MSE': {'loss.name': 'mse', 'heatmap.activation': 'sigmoid'},
    'AdamW': {
        'optimizer.name': 'adamw',
        'optimizer.learning_rate': '0.004',
        'optimizer.options': "{'weight_decay': 0.02}",
    },
    '20,000 renders': {'data.train_split': 'train[:20000]'},
    '31,941 renders': {'data.train_split': 'train'},
    'no augmentation': {
        f'augment.{name}': '0.0' for name in unet.get_config().augment if name not in ('fill', 'quarter_turns')
    },
    'no borders': {'data.dataset': 'synthetic_hands/borderless_8000_128px'},
    'no clutter': {'data.dataset': 'synthetic_hands/uncluttered_8000_128px'},
}
# 24 times each of 6,000 renders. A sample costs the same whatever it is drawn from: equal samples are equal time.
LONG = {'train.epochs': '30', 'train.steps_per_epoch': '150', 'train.average': '0.999'}
LARGE = 'synthetic_hands/presence_75200_128px'  # its test split is new to the smaller set, too
LONG_VARIANTS = {
    '6,000 renders': LONG,
    '20,000 renders': VARIANTS['20,000 renders'] | LONG,
    '60,000 renders': {'data.dataset': LARGE, 'data.train_split': 'train[:60000]'} | LONG,
}
COLUMNS = {
    'synthetic nme': ('renders', 'nme_box'),
    'PCK@0.2': ('renders', 'pck@0.2_box'),
    'FreiHAND-like nme': ('freihand_like', 'nme_box'),
    'PCK@0.2 ': ('freihand_like', 'pck@0.2_box'),
    'other sets nme': ('other_sets', 'nme_box'),
}


def score(run: ablation.Run, dataset: str, photos: hands.Photos) -> dict[str, dict]:
    """{'renders' or a group of photos: hands.summary of its errors}."""
    model = trained_model.load(run.workdir, {'data.dataset': dataset})
    estimator = HandPoseEstimator(model, rotations=1, refine=0)
    return {'renders': hands.score_renders(model, split='test[:960]'), **photos.scores(photos.predict(estimator))}


def summarise(scores: dict[str, list[dict]]) -> dict[str, dict[str, list[float]]]:
    """{variant: {column: the value of each seed}}."""
    return {
        variant: {column: [one[group][name] for one in runs] for column, (group, name) in COLUMNS.items()}
        for variant, runs in scores.items()
    }


def table(variants: dict[str, dict[str, Sequence[float]]]) -> str:
    """Markdown: mean ± standard deviation over the seeds."""
    lines = [f'| | {" | ".join(map(str.strip, COLUMNS))} |', '| --- |' + ' ---: |' * len(COLUMNS)]
    for variant, columns in variants.items():
        spreads = [np.std(values, ddof=1) if len(values) > 1 else None for values in columns.values()]
        numbers = map(ablation.number, map(np.mean, columns.values()), spreads)
        lines.append(f'| {variant} | {" | ".join(numbers)} |')
    return '\n'.join(lines)


def main(_) -> None:
    output, seeds = Path(OUTPUT.value), [int(seed) for seed in SEEDS.value]
    variants = LONG_VARIANTS if LONG_RUNS.value else VARIANTS
    runs = ablation.plan(CONFIG.value, variants, seeds, output)
    if DRY_RUN.value:
        return ablation.print_plan(runs)
    photos = hands.Photos.read(REAL.value)
    trained = ablation.compare(CONFIG.value, variants, seeds, output, JOBS.value)
    failed = [
        variant
        for variant, result in trained['variants'].items()
        for run in result['seeds'].values()
        if run['status'] == 'failed'
    ]
    if failed:
        raise UserError(f'{", ".join(failed)}: a training failed, see log.txt in its folder; give the command again')
    scores, dataset = {}, LARGE if LONG_RUNS.value else trained['config']['data']['dataset']
    for run in runs:
        scores.setdefault(run.variant, []).append(score(run, dataset, photos))
    result = {'config': trained['config'], 'seeds': seeds, 'overrides': variants, 'variants': summarise(scores)}
    files.write_json(output / 'transfer.json', result | logbook.environment())
    print(f'\n{table(result["variants"])}')


if __name__ == '__main__':
    OUTPUT, SEEDS, JOBS, DRY_RUN = ablation.define_flags()
    CONFIG = flags.DEFINE_string('config', 'configs/transfer.py', 'The config file that all runs start from.')
    REAL = flags.DEFINE_string('real', None, 'Folder of labelled photos.', required=True)
    LONG_RUNS = flags.DEFINE_bool('long', False, 'Compare numbers of renders, in longer runs.')
    logging.set_verbosity(logging.FATAL)
    ablation.call(main)
