"""The whole job in seconds, for tests: the real loop with a network and a budget that are too small to learn much.

    python -m hpe_jax.main --config=configs/tiny.py --workdir=runs/tiny --config.data.manual_dir=FOLDER

Expected: about 20 seconds on two cores, most of them spent on starting and compiling; no score worth naming.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.image_size = 32
    config.heatmap.sigma = 1.5
    config.model.widths = (4, 8)
    config.train.update(batch_size=4, epochs=3, steps_per_epoch=4, validation_batches=1, images_every=2)
    config.eval.batch_size = 4
    config.eval.decoders.window.radius = 4.5
    return config
