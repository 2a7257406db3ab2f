"""The weights published with the PyTorch reference, as they are: turned into a run directory, then used like any other.

    python -m hpe_jax.torch_weights model_final.pth runs/published
    python -m hpe_jax.main --mode=evaluate --config=configs/published.py --workdir=runs/published --split=test
    python -m hpe_jax.main --config=configs/unet.py --workdir=runs/tuned --config.init_from=runs/published

Expected (published): error_pct 4.5 on FreiHAND raw, test split. Codec, decoder and channel statistics are those that
the weights were trained and scored with; every evaluation reports the other decoders too.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.mean = (0.3950, 0.4323, 0.2954)
    config.data.std = (0.1966, 0.1734, 0.1836)
    config.heatmap.codec = 'reference'
    config.eval.decoder = 'mean'
    return config
