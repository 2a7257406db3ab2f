"""What `experiments/loss_ablation.py` runs on two cores: the reference recipe, small, on synthetic hands.

    python -m hpe_jax.main --config=configs/loss_ablation.py --workdir=runs/loss_ablation_iou

Expected: error_pct 11.5 ± 0.9 after 2 minutes of training (experiments/records/loss_ablation.json, 'iou, reference').
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.update(dataset='synthetic_hands/studio', data_dir='runs/tensorflow_datasets', image_size=32)
    config.data.update(validation_split='validation[:50%]', test_split='validation[50%:]+test')
    config.data.targets = 'device'
    config.heatmap.sigma = 1.5
    config.model.widths = (8, 16, 32, 64)
    config.train.update(batch_size=16, epochs=60, steps_per_epoch=50, validation_batches=10)
    config.train.early_stopping.patience = 1000  # every variant gets the same number of steps
    config.eval.decoders.window.radius = 4.5
    return config
