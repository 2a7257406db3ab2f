"""The reference in PyTorch, written again for the benchmarks: network, loss, step and loader of Chernytska's tutorial.

The loader makes heatmaps as outer products, which is faster than the reference's blur of each map; else it is the same.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from hpe_jax import heatmap


class Block(nn.Sequential):
    """(BatchNorm, 3x3 convolution without bias, ReLU), twice."""

    def __init__(self, channels_in: int, channels_out: int):
        layers = []
        for i in (channels_in, channels_out):
            layers += [nn.BatchNorm2d(i), nn.Conv2d(i, channels_out, 3, padding=1, bias=False), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """As hpe_jax.models.UNet, in NCHW: (B, 3, H, W) to (B, 21, H, W)."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), num_keypoints: int = 21):
        super().__init__()
        *levels, bottleneck = widths
        inputs, below = (3, *levels), (*levels[1:], bottleneck)
        self.down = nn.ModuleList([Block(i, o) for i, o in zip(inputs, levels, strict=False)])
        self.bottleneck = Block(inputs[-1], bottleneck)
        self.up = nn.ModuleList([Block(b + o, o) for b, o in zip(below[::-1], levels[::-1], strict=True)])
        self.out = nn.Conv2d(widths[0], num_keypoints, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([self.upsample(x), skip], 1))
        return torch.sigmoid(self.out(x))


def iou_loss(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """1 - IoU, mean over maps (B, 21, H, W), as hpe_jax.losses.iou."""
    intersection = (predicted * true).sum((2, 3))
    union = (true**2).sum((2, 3)) + (predicted**2).sum((2, 3)) - intersection
    return 1 - ((intersection + 1e-6) / (union + 1e-6)).mean()


class Photos(torch.utils.data.Dataset):
    """Encoded photos and normalised keypoints (N, 21, 2) to what a step takes, one at a time."""

    def __init__(self, photos: Sequence[bytes], keypoints: np.ndarray, size: int, sigma: float, mean, std):
        self.photos, self.keypoints, self.size, self.sigma = photos, keypoints, size, sigma
        self.mean, self.std = np.float32(mean), np.float32(std)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo = Image.open(io.BytesIO(self.photos[i])).resize((self.size, self.size), Image.Resampling.BILINEAR)
        image = (np.asarray(photo, np.float32) / 255 - self.mean) / self.std
        keypoints, visible = self.keypoints[i], np.ones(len(self.keypoints[i]), bool)
        maps = heatmap.encode(keypoints, visible, (self.size, self.size), self.sigma, 'reference', xp=np)
        return tuple(torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))) for a in (image, maps))


def loader(photos: Photos, batch_size: int, workers: int, pinned: bool) -> torch.utils.data.DataLoader:
    """Shuffled batches without end of an epoch that is cut short."""
    options = {'num_workers': workers, 'persistent_workers': workers > 0, 'pin_memory': pinned}
    return torch.utils.data.DataLoader(photos, batch_size, shuffle=True, drop_last=True, **options)


class Trainer:
    """SGD at 0.1 on the IoU loss.

    Args:
      device: 'cpu' or 'cuda'.
      channels_last, compiled: PyTorch's memory format and torch.compile.
      dtype: torch.bfloat16 computes under autocast.
    """

    def __init__(self, device: str, channels_last: bool, compiled: bool, dtype: torch.dtype = torch.float32):
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.device, self.dtype = device, dtype
        self.model = UNet().to(device, memory_format=self.format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.forward = torch.compile(self.loss) if compiled else self.loss

    def put(self, array: torch.Tensor) -> torch.Tensor:
        return array.to(self.device, non_blocking=True, memory_format=self.format)

    def loss(self, images: torch.Tensor, heatmaps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            predicted = self.model(images)
        return iou_loss(predicted.float(), heatmaps)

    def step(self, images: torch.Tensor, heatmaps: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(images, heatmaps)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def wait(self) -> None:
        if self.device == 'cuda':
            torch.cuda.synchronize()
