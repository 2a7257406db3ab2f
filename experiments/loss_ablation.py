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
from ml_collections import ConfigDict

from experiments import ablation
from hpe_jax import files, losses, models, preprocess, trained_model
from hpe_jax.data import sources

Rates = dict[tuple[str, str], tuple[str, ...]]  # (loss, optimiser) -> learning rates

REFERENCE = {'optimizer.name': 'sgd', 'optimizer.learning_rate': '0.1'}
# Each three in a row around the best of a first look at 32x32 with sigma 1.5. MSE's go with the maps' share of
# background, N / (2 pi sigma²), by which its gradient is smaller than that of IoU.
RATES = {
    ('iou', 'sgd'): ('0.3', '1', '3'),
    ('mse', 'sgd'): ('3', '10', '30'),
    ('iou', 'adam'): ('0.001', '0.003', '0.01'),
    ('mse', 'adam'): ('0.001', '0.003', '0.01'),
    ('balanced_mse', 'adam'): ('0.001', '0.003', '0.01'),
}
TUNING_SEED = 100


def rates_for(config: ConfigDict) -> Rates:
    """RATES, with SGD's for MSE as the size of the config's maps wants them."""
    scale = (config.data.image_size / 32) ** 2 / (config.heatmap.sigma / 1.5) ** 2
    return RATES | {('mse', 'sgd'): tuple(f'{float(rate) * scale:g}' for rate in RATES['mse', 'sgd'])}


def tuning_variants(rates: Rates) -> dict[str, ablation.Overrides]:
    return {
        f'{loss}, {optimizer} {rate}': _overrides(loss, optimizer, rate)
        for (loss, optimizer), choices in rates.items()
        for rate in choices
    }


def variants(rates: Rates, tuning: dict) -> dict[str, ablation.Overrides]:
    """The reference's optimiser, and each loss with the rate that had the lowest validation error in `tuning`."""
    found = {f'{loss}, reference': {'loss.name': loss, **REFERENCE} for loss in ('iou', 'mse')}
    for (loss, optimizer), choices in rates.items():
        errors = [_validation_error(tuning['variants'][f'{loss}, {optimizer} {rate}']) for rate in choices]
        rate = choices[int(np.argmin(errors))]
        found[f'{loss}, {optimizer} tuned ({rate})'] = _overrides(loss, optimizer, rate)
    return found


def _overrides(loss: str, optimizer: str, rate: str) -> ablation.Overrides:
    return {'loss.name': loss, 'optimizer.name': optimizer, 'optimizer.learning_rate': rate}


def _validation_error(variant: dict) -> float:
    """At the epoch that the run's report chose; infinite if the run failed."""
    (run,) = variant['seeds'].values()
    return run['history']['validation_error_pct'][run['best_epoch'] - 1] if run['status'] == 'done' else np.inf


def gradient_norms(workdir: Path, num_images: int = 48) -> dict[str, dict[str, float]]:
    """{'fresh' or 'trained': {loss: norm of its gradient by all parameters}} on a run's first training photos."""
    run = trained_model.load(workdir)
    images = sources.load(run.config, {'train': run.config.data.train_split})['train']
    batch = next(sources.open_split(images, run.config).once(num_images, np.arange(num_images)))

    def norm(model: nnx.Module, loss: str) -> float:
        def total(model):
            heatmaps = model(batch['image'])
            values = losses.per_keypoint(loss, heatmaps, preprocess.targets(batch, run.config.heatmap))
            return losses.masked_mean(values, preprocess.keypoint_mask(batch))

        model.train()
        return float(optax.global_norm(nnx.jit(nnx.grad(total))(model)))

    fresh = models.make(run.config)
    fresh.standardise = run.model.standardise
    networks = {'fresh': fresh, 'trained': run.model}
    return {
        name: {loss: norm(model, loss) for loss in losses.LOSSES if loss not in losses.OF_LOGITS}
        for name, model in networks.items()
    }


def main(_) -> None:
    output, seeds = Path(OUTPUT.value), [int(seed) for seed in SEEDS.value]
    rates = rates_for(ablation.Run('', 0, CONFIG.value, {}, output).config())
    tuning = tuning_variants(rates)
    if DRY_RUN.value:
        ablation.print_plan(ablation.plan(CONFIG.value, tuning, [TUNING_SEED], output / 'tuning'))
        print(f'and then {2 + len(rates)} variants, with the rates so found, by seeds {", ".join(map(str, seeds))}')
        return
    tuned = ablation.compare(CONFIG.value, tuning, [TUNING_SEED], output / 'tuning', JOBS.value)
    results = ablation.compare(CONFIG.value, variants(rates, tuned), seeds, output, JOBS.value)
    mse = ablation.plan(CONFIG.value, {'mse, reference': {}}, seeds[:1], output)[0].workdir
    gradients = gradient_norms(mse)
    files.write_json(output / 'gradients.json', gradients)
    print(f'\n{ablation.table(results["variants"])}\nnorm of the gradient: {gradients}')


if __name__ == '__main__':
    OUTPUT, SEEDS, JOBS, DRY_RUN = ablation.define_flags()
    CONFIG = flags.DEFINE_string('config', 'configs/loss_ablation.py', 'The config file that all runs start from.')
    ablation.call(main)
