"""What the benchmarks compare with, in PyTorch: networks, losses, step and loader.

UNet, its loss and the loader are those of Chernytska's tutorial, written again. The loader makes heatmaps as outer
products, which is faster than the reference's blur of each map; else it is the same. HandNet is hpe_jax's.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from hpe_jax import heatmap
from hpe_jax.models import handnet


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


class ConvBlock(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1):
        conv = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block = ConvBlock(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.norm(self.conv(self.block(x))))


class HandNet(nn.Module):
    """As hpe_jax.models.HandNet, in NCHW: (B, 3, H, W) to logits (B, 21, H / 4, W / 4), and (B,) of each head."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], num_keypoints: int = 21):
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, widths[0], stride=2), ConvBlock(*widths[:2], stride=2))
        self.down, self.back = nn.ModuleList(), nn.ModuleList()
        for above, width, num_blocks in zip(widths[1:-1], widths[2:], blocks, strict=True):
            residual = [ResidualBlock(width) for _ in range(num_blocks)]
            self.down.append(nn.Sequential(ConvBlock(above, width, stride=2), *residual))
            self.back.append(nn.ModuleList([ConvBlock(width, above, 1), ResidualBlock(above)]))
        self.upsample = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False)
        self.maps = nn.Conv2d(widths[1], num_keypoints, 1)
        self.hidden = nn.Linear(widths[-1], handnet.HIDDEN)
        self.heads = nn.Linear(handnet.HIDDEN, 2 + len(handnet.TURNS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        levels = [self.stem(x)]
        for level in self.down:
            levels.append(level(levels[-1]))
        x = levels.pop()
        heads = self.heads(functional.relu(self.hidden(x.mean((2, 3)))))
        for (narrow, residual), above in zip(reversed(self.back), reversed(levels), strict=True):
            x = residual(above + self.upsample(narrow(x)))
        maps = self.maps(x)
        return maps, heads[:, 0], heads[:, 1] + (heads[:, 2:] * sense_of_rotation(maps.detach())).sum(1)


def sense_of_rotation(maps: torch.Tensor) -> torch.Tensor:
    """As hpe_jax.models.handnet's: (B, K, H, W) to (B, T)."""
    masses = maps.float().flatten(2).softmax(2).unflatten(2, maps.shape[2:])
    columns, rows = masses.sum(2), masses.sum(3)
    x, y = (
        profile @ torch.arange(profile.shape[2], dtype=profile.dtype, device=maps.device) for profile in (columns, rows)
    )
    from_wrist = torch.stack([x, y], 2) - torch.stack([x, y], 2)[:, :1]
    first, second = (from_wrist[:, list(joints)] for joints in zip(*handnet.TURNS, strict=True))
    lengths = ((first**2).sum(2) * (second**2).sum(2) + 1e-6).sqrt()
    return (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]) / lengths


def cross_entropy(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean over maps (B, 21, H, W), as hpe_jax.losses.cross_entropy."""
    weights = true.flatten(2) / true.sum((2, 3))[..., None]
    return -(weights * predicted.flatten(2).log_softmax(2)).sum(2).mean()


def iou_loss(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """1 - IoU, mean over maps (B, 21, H, W), as hpe_jax.losses.iou."""
    intersection = (predicted * true).sum((2, 3))
    union = (true**2).sum((2, 3)) + (predicted**2).sum((2, 3)) - intersection
    return 1 - ((intersection + 1e-6) / (union + 1e-6)).mean()


def loss_of(predicted: torch.Tensor | tuple, heatmaps: torch.Tensor) -> torch.Tensor:
    """Of what either network answers to right hands in the middle of their photos; of the heads as configs/hands.py."""
    if isinstance(predicted, torch.Tensor):
        return iou_loss(predicted.float(), heatmaps)
    maps, presence, handedness = (x.float() for x in predicted)
    heads = functional.softplus(-presence).mean() + 3 * functional.softplus(-handedness).mean()
    return cross_entropy(maps, heatmaps) + heads


class Photos(torch.utils.data.Dataset):
    """Encoded photos and normalised keypoints (N, 21, 2) to what a step takes, one at a time."""

    def __init__(
        self, photos: Sequence[bytes], keypoints: np.ndarray, size: int, sigma: float, mean, std, stride: int = 1
    ):
        self.photos, self.keypoints, self.size, self.sigma, self.stride = photos, keypoints, size, sigma, stride
        self.mean, self.std = np.float32(mean), np.float32(std)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo = Image.open(io.BytesIO(self.photos[i])).resize((self.size, self.size), Image.Resampling.BILINEAR)
        image = (np.asarray(photo, np.float32) / 255 - self.mean) / self.std
        keypoints, visible = self.keypoints[i], np.ones(len(self.keypoints[i]), bool)
        side, sigma = self.size // self.stride, self.sigma / self.stride
        maps = heatmap.encode(keypoints, visible, (side, side), sigma, 'reference', xp=np)
        return tuple(torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))) for a in (image, maps))


def loader(photos: Photos, batch_size: int, workers: int, pinned: bool) -> torch.utils.data.DataLoader:
    """Shuffled batches without end of an epoch that is cut short."""
    options = {'num_workers': workers, 'persistent_workers': workers > 0, 'pin_memory': pinned}
    return torch.utils.data.DataLoader(photos, batch_size, shuffle=True, drop_last=True, **options)


class Trainer:
    """SGD at 0.1: of a UNet on the IoU loss, of a HandNet on the cross-entropy of maps and heads.

    Args:
      model: one of the two.
      device: 'cpu' or 'cuda'.
      channels_last, compiled: PyTorch's memory format and torch.compile.
      dtype: torch.bfloat16 computes under autocast.
    """

    def __init__(
        self,
        model: UNet | HandNet,
        device: str,
        channels_last: bool,
        compiled: bool,
        dtype: torch.dtype = torch.float32,
    ):
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.device, self.dtype = device, dtype
        self.model = model.to(device, memory_format=self.format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.forward = torch.compile(self.loss) if compiled else self.loss

    def put(self, array: torch.Tensor) -> torch.Tensor:
        return array.to(self.device, non_blocking=True, memory_format=self.format)

    def loss(self, images: torch.Tensor, heatmaps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            predicted = self.model(images)
        return loss_of(predicted, heatmaps)

    def step(self, images: torch.Tensor, heatmaps: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(images, heatmaps)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def wait(self) -> None:
        if self.device == 'cuda':
            torch.cuda.synchronize()
