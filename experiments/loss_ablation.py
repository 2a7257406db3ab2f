"""MSE against IoU: the tutorial's claim, "MSE just didn't work; IoU works", put to the test.

    python -m experiments.loss_ablation --output=runs/loss_ablation [--dry_run]                       two cores
    python -m experiments.loss_ablation --config=configs/unet.py --output=runs/loss_full --jobs=8     FreiHAND, 8 GPUs

First every loss gets its own learning rate under each optimiser: as many rates for one as for the other, one run each
with a seed that is not used again, the best validation error wins. Then the reference's SGD at rate 0.1 and the tuned
optimisers are trained with every seed and scored on the test split. `--output` is resumable, as in ablation.py.

It also writes gradients.json: how large the gradient of each loss is, on the same photos, in a fresh network and in the
one that the reference's MSE ended with.
"""

from pathlib import Path

import numpy as np
import optax
from absl import flags
from flax import nnx

from experiments import ablation
from hpe_jax import evaluate, files, losses, models, preprocess
from hpe_jax.data import pipeline, prepared

REFERENCE = {'optimizer.name': 'sgd', 'optimizer.learning_rate': '0.1'}
RATES = {  # each three in a row around the best of a first look
    ('iou', 'sgd'): ('0.3', '1', '3'),
    ('mse', 'sgd'): ('3', '10', '30'),
    ('iou', 'adam'): ('0.001', '0.003', '0.01'),
    ('mse', 'adam'): ('0.0003', '0.001', '0.003'),
    ('balanced_mse', 'adam'): ('0.001', '0.003', '0.01'),
}
TUNING_SEED = 100


def tuning_arms() -> dict[str, ablation.Overrides]:
    return {
        f'{loss}, {optimizer} {rate}': _overrides(loss, optimizer, rate)
        for (loss, optimizer), rates in RATES.items()
        for rate in rates
    }


def arms(tuning: dict) -> dict[str, ablation.Overrides]:
    """The reference's optimiser, and each loss with the rate that had the lowest validation error in `tuning`."""
    found = {f'{loss}, reference': {'loss.name': loss, **REFERENCE} for loss in ('iou', 'mse')}
    for (loss, optimizer), rates in RATES.items():
        errors = [_validation_error(tuning['arms'][f'{loss}, {optimizer} {rate}']) for rate in rates]
        rate = rates[int(np.argmin(errors))]
        found[f'{loss}, {optimizer} tuned ({rate})'] = _overrides(loss, optimizer, rate)
    return found


def _overrides(loss: str, optimizer: str, rate: str) -> ablation.Overrides:
    return {'loss.name': loss, 'optimizer.name': optimizer, 'optimizer.learning_rate': rate}


def _validation_error(arm: dict) -> float:
    """At the epoch that the run's report chose; infinite if the run failed."""
    (run,) = arm['seeds'].values()
    return run['history']['validation_error_pct'][run['best_epoch'] - 1] if run['status'] == 'done' else np.inf


def gradient_norms(workdir: Path, number: int = 48) -> dict[str, dict[str, float]]:
    """{'fresh' or 'trained': {loss: norm of its gradient by all parameters}} on a run's first training photos."""
    run = evaluate.load_run(workdir)
    photos = prepared.load(prepared.open_dataset(run.config.data), run.config.data.train_split)
    photos = pipeline.Pipeline(photos, run.config.data, run.config.heatmap, run.mean, run.std)
    batch = next(photos.once(number, np.arange(number)))

    def norm(model: nnx.Module, loss: str) -> float:
        def total(model):
            heatmaps = model(preprocess.inputs(batch, run.mean, run.std))
            values = losses.per_keypoint(loss, heatmaps, preprocess.targets(batch, run.config.heatmap))
            return losses.masked_mean(values, preprocess.counted(batch))

        model.train()
        return float(optax.global_norm(nnx.jit(nnx.grad(total))(model)))

    networks = {'fresh': models.make(run.config.model, run.config.seed), 'trained': run.model}
    return {name: {loss: norm(model, loss) for loss in losses.LOSSES} for name, model in networks.items()}


def main(_) -> None:
    output, seeds = Path(OUTPUT.value), [int(seed) for seed in SEEDS.value]
    if DRY_RUN.value:
        ablation.tell(ablation.plan(CONFIG.value, tuning_arms(), [TUNING_SEED], output / 'tuning'))
        print(f'and then {2 + len(RATES)} arms, with the rates so found, by seeds {", ".join(map(str, seeds))}')
        return
    tuning = ablation.compare(CONFIG.value, tuning_arms(), [TUNING_SEED], output / 'tuning', JOBS.value)
    results = ablation.compare(CONFIG.value, arms(tuning), seeds, output, JOBS.value)
    mse = ablation.plan(CONFIG.value, {'mse, reference': {}}, seeds[:1], output)[0].workdir
    gradients = gradient_norms(mse)
    files.write_json(output / 'gradients.json', gradients)
    print(f'\n{ablation.table(results["arms"])}\nnorm of the gradient: {gradients}')


if __name__ == '__main__':
    OUTPUT, SEEDS, JOBS, DRY_RUN = ablation.define_flags()
    CONFIG = flags.DEFINE_string('config', 'configs/loss_ablation.py', 'The config file that all runs start from.')
    ablation.call(main)
