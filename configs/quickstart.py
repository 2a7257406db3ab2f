"""The quick start: no photos, no download, two cores. The recipe of configs/hands.py on 4,000 rendered hands.

python -m hpe_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Expected: 7.3 minutes on two cores with AVX-512, rendering and compilation included; error_pct 14.4 on unseen hands
(experiments/records/quickstart.json). A slower machine trains less in the same time.
"""

from ml_collections import ConfigDict

from configs import hands


def get_config() -> ConfigDict:
    config = hands.get_config()
    config.data.dataset = 'synthetic_hands/presence_4000_128px'
    config.model.blocks = (1, 2, 1)  # fewer than the shipped network has: more samples in the same minutes
    config.data.train_split, config.data.validation_split = 'train+validation[:50%]', 'validation[50%:]'
    config.train.update(minutes=4.5, epochs=60, steps_per_epoch=50, validation_batches=8, average=0.995)
    return config
