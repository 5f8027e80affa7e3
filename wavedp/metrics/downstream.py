"""Downstream accuracy: a small classifier is trained only on generated images and tested on real ones.

Training reads only released images, so it is free post-processing; testing reads real labels, which the ledger records
as an evaluation.

    B images, C channels, H W pixels, K classes
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from wavedp.progress import Report, silent

_BATCH = 128
_PEAK_LEARNING_RATE = 3e-3


def downstream_accuracy(
    images: torch.Tensor,
    labels: torch.Tensor,
    test_images: torch.Tensor,
    test_labels: torch.Tensor,
    steps: int,
    seed: int,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> float:
    """Share of `test_images` classified as `test_labels` after `steps` batches of 128 from `images`, in [0, 1].

    Images uint8 B C H W, labels int64 B. Adam with a one-cycle schedule. `seed` determines initial weights, dropout and
    the order of batches; global random state is unchanged. Trained on 2,000 real 28x28 Fashion-MNIST images for 400
    steps it gives 0.85 in 15 s on one thread; the time grows with the number of pixels.
    """
    n_classes = int(labels.max()) + 1  # test images of a class beyond these always count as wrong
    labels = labels.to(device)
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        classifier = _classifier(images.shape[1], n_classes).to(device)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=_PEAK_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LEARNING_RATE, total_steps=steps)
        for step in range(steps):
            chosen = torch.randint(len(images), (_BATCH,))
            logits = classifier(_normalized(images[chosen], device))  # B K
            loss = F.cross_entropy(logits, labels[chosen.to(device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1, steps)
    classifier.eval()
    with torch.inference_mode():
        logits = torch.cat([classifier(_normalized(batch, device)).cpu() for batch in test_images.split(500)])
    return float((logits.argmax(1) == test_labels.cpu()).double().mean())


def _classifier(channels: int, n_classes: int) -> nn.Sequential:
    """Build three 3x3 convolutions (16, 32, 64 channels) with pooling between, then a linear layer: B C H W -> B K."""

    def convolution(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(
        *(convolution(channels, 16), nn.MaxPool2d(2)),
        *(convolution(16, 32), nn.MaxPool2d(2)),
        *(convolution(32, 64), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, n_classes)),
    )


def _normalized(images: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Scale uint8 in 0..255 to float32 in -1..1."""
    return images.to(device).float() / 127.5 - 1
