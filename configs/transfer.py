"""What experiments/transfer.py changes one thing of: configs/hands.py on 6,000 renders, for 8,000 samples, no heads.

python -m hpe_jax.main --config=configs/transfer.py --workdir=runs/transfer_recipe

Expected: see "What transfers to photos" in experiments/README.md.
"""

from ml_collections import ConfigDict

from configs import hands


def get_config() -> ConfigDict:
    config = hands.get_config()
    # One preset, since its counterparts without borders and without clutter have no open hands beside them.
    config.data.dataset = 'synthetic_hands/presence_40000_128px'
    config.data.train_split = 'train[:6000]'
    config.model.blocks = (1, 2, 1)
    # Without heads every sample counts for the keypoints, and no loss is weighed against theirs.
    config.loss.presence = config.loss.handedness = 0.0
    config.augment.left = config.augment.away = 0.0
    config.train.update(epochs=5, steps_per_epoch=50, validation_batches=8, average=0.99)
    config.eval.decoders = ConfigDict({'window': {'radius': 3.0}})
    return config
