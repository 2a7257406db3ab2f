"""The full recipe on synthetic hands alone, for an accelerator: fresh pictures in every step, nothing on disk but the
validation and test sets. What comes out may be used in products, since no research photo went in.

    python -m hpe_jax.main --config=configs/synthetic.py --workdir=runs/synthetic

Expected: not measured yet; no accelerator was at hand. Tried on two cores at a toy size only (a narrow network at
48x48, batches of 4, 10 steps), where 6 pictures a second were rendered and trained on; `configs/quickstart.py` is for
those. Optimiser and rate are the quick start's.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.update(source='live', live_preset='full', live_batch=48, dataset='synthetic_hands/full_4000')
    config.data.update(train_split='train[:500]')  # for the channel statistics only
    config.data.targets = 'device'
    config.optimizer.update(name='muon', learning_rate=5e-3)
    config.train.update(steps_per_epoch=500, epochs=400)
    return config
