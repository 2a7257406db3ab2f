"""Hands in real photos: the network that is shipped, trained on nothing but this project's own renders.

python -m hpe_jax.main --config=configs/hands.py --workdir=runs/hands

Expected: the shipped model is the end of five such runs, 1.46 million samples in 282 minutes on two AVX-512 cores that
did other work as well: nme 0.115 on unseen renders, 0.159 on photos like FreiHAND's (experiments/records/hands.json);
experiments/README.md tells the runs apart. Set config.model.conv='onednn_bfloat16' on a CPU that can. On a GPU, which
was not tried, set config.precision='bfloat16', config.train.scan_epochs=True and a larger config.train.batch_size.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.dataset = 'synthetic_hands/presence_40000_128px:1, synthetic_hands/open_16000_128px:0.4'
    config.data.update(source='resident', data_dir='runs/tensorflow_datasets', targets='device')
    config.data.train_split, config.data.validation_split = 'train+validation[:90%]', 'validation[90%:]'
    config.model.update(name='handnet', widths=(16, 24, 56, 112, 112), blocks=(1, 3, 2))
    config.heatmap.update(sigma=5.0, stride=4, activation='softmax')
    config.loss.update(name='cross_entropy', presence=1.0, handedness=3.0)
    config.augment.update(left=0.4, rotation=180.0, scale=0.4, shift=0.1, fill='random', cover=0.3, away=0.1)
    config.augment.update(brightness=0.3, contrast=0.3, gamma=0.2, tint=0.18, saturation=0.5, grey=0.12)
    config.augment.update(blur=1.2, noise=0.06)
    config.optimizer.update(name='muon', learning_rate=8e-3, clip=5.0, schedule='cosine')
    config.optimizer.options = ConfigDict({'adam_learning_rate': 4e-3, 'weight_decay': 0.02})
    config.train.update(batch_size=32, epochs=32, steps_per_epoch=500, validation_batches=32, average=0.999)
    config.train.early_stopping.patience = 1_000_000
    config.eval.decoders = ConfigDict({'window': {'radius': 3.0}, 'mean': {}, 'argmax': {}})
    return config
