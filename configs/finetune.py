"""Your own labelled photos (hpe_jax/data/coco_hands/README.md), from the shipped model on.

python -m hpe_jax.main --config=configs/finetune.py --workdir=runs/finetuned --config.data.manual_dir=FOLDER

Starts from config.init_from: its weights (the averaged ones), BatchNorm's statistics and channel statistics; the
average of the weights begins as these. The rate is low, rises over the first tenth and falls to nearly nothing; 500
steps of 32 crops, however few there are. Both heads are trained on. The licence of your photos binds what comes out.

Expected: see "Fine-tuning" in experiments/README.md.
"""

from ml_collections import ConfigDict

from configs import hands


def get_config() -> ConfigDict:
    config = hands.get_config()
    config.init_from = 'hands'
    config.data.update(dataset='coco_hands', train_split='train', validation_split='validation')
    config.optimizer.learning_rate = 1e-3
    config.optimizer.options.adam_learning_rate = 5e-4
    config.optimizer.cosine.warmup = 0.1
    # The average is about as long as the last epoch and a half.
    config.train.update(epochs=10, steps_per_epoch=50, validation_batches=8, average=0.99)
    return config
