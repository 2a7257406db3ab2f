"""The reference's ablation: MSE in the place of the IoU loss. The tutorial reports that it did not train.

    python -m hpe_jax.main --config=configs/unet_mse.py --workdir=runs/unet_mse

Expected: no number is published, and none is measured here at this size. At a small size the reference's rate leaves it
at empty maps, and a hundred times that rate trains it: experiments/records/loss_ablation.json.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.loss.name = 'mse'
    return config
