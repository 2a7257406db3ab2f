"""A quick start without any photos: drawn hands at 64x64, a narrower network, Adam.

    python -m hpe_jax.data.drawn_hands runs/drawn_hands 1500
    python -m hpe_jax.main --config=configs/drawn.py --workdir=runs/drawn

Expected: TODO
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.update(manual_dir='runs/drawn_hands', data_dir='runs/tensorflow_datasets', image_size=64)
    config.heatmap.sigma = 2.0
    config.model.widths = (16, 32, 64)
    config.optimizer.update(name='adam', learning_rate=3e-3)
    config.optimizer.plateau.patience = 4
    config.train.update(batch_size=32, epochs=15, steps_per_epoch=36, validation_batches=8)
    config.eval.decoders.window.radius = 6.0
    return config
