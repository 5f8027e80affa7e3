"""Downstream accuracy by DPImageBench's protocol, for comparison with its tables.

Three classifiers are trained only on generated images: 11/12 of them (55,000 of 60,000, drawn with seed 0) for
training, the rest for choosing the epoch. Adam at 0.01, times 0.2 every 20 of 50 epochs, batches of 256, weights
averaged with decay 0.9999 (evaluation/evaluator.py, val mode `syn`; its recipe for CIFAR differs). As there, ResNeXt is
left out above 32 pixels per side. Nothing is chosen on sensitive images: each classifier is tested on them once.
DPImageBench's tables give the maximum of the three; here the mean is reported, and each one.

Its other numbers are metrics of their own here, with mode `pytorch`, which takes the same features of the same network:

    table               here                                    differs in
    FID                 fid                                     its 50,000 images are drawn without a seed
    precision, recall   {name: prdc, k: 3}                      it uses all 60,000 images, and leaves out ties
    IS                  {name: inception_score, layer: FILE}    it uses all 60,000 images; one split, as here
    FLD                 fld: fld-train_…                        its 10,000 images and halves are drawn without a seed

FLD there is of the training images, not of the test images as its authors propose: fld_… is the latter.

`light` is a protocol of the same form for two cores, with other networks and settings; its scores have another name.

    B generated images, C channels, H W pixels, K classes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.averages import MovingAverage
from wavedp.devices import fused, taker
from wavedp.errors import UserError
from wavedp.metrics.classifiers import resnet, resnext, wide_resnet
from wavedp.progress import Report, silent

SMALLEST_WITHOUT_RESNEXT = 33  # pixels per side
FEWEST = 24  # images, two of which are held out for choosing the epoch


@dataclass(frozen=True)
class Protocol:
    """networks: by name, each (channels, classes) -> module. step: number of epochs after which the learning rate is
    divided by five."""

    networks: dict[str, Callable[[int, int], nn.Module]]
    epochs: int
    step: int
    batch: int = 256
    learning_rate: float = 0.01
    decay: float = 0.9999


PROTOCOLS = {
    "dpimagebench": Protocol({"resnet110": resnet, "wrn40-4": wide_resnet, "resnext29": resnext}, epochs=50, step=20),
    "light": Protocol(
        {
            "resnet8": partial(resnet, depth=8),
            "wrn10-1": partial(wide_resnet, depth=10, widen=1),
            "resnext11": partial(resnext, depth=11, groups=2, group_width=4, stem=8),
        },
        epochs=10,
        step=4,
        batch=64,
    ),
}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one classifier at its best epoch (counted from 1). validation: on held-out generated images, by which
    the epoch is chosen. test: on real images."""

    test: float
    validation: float
    epoch: int


def accuracies(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    protocol: Protocol,
    seed: int,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> dict[str, Accuracy]:
    """Return the accuracy of each of the protocol's classifiers, by name. Images uint8 B C H W, labels int64 B. `seed`
    determines initial weights, dropout and the order of batches; global random state is unchanged. `report(done,
    total)` counts epochs.

    Raises UserError for fewer than `FEWEST` images.
    """
    if len(images) < FEWEST:
        raise UserError(f"{len(images)} images are too few to learn from and to choose by: raise sampling.n.")
    names = [
        name
        for name in protocol.networks
        if not name.startswith("resnext") or max(images.shape[-2:]) < SMALLEST_WITHOUT_RESNEXT
    ]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    kept = len(images) - len(images) * 11 // 12
    train, validation = ((images[part], labels[part]) for part in (order[:-kept], order[-kept:]))
    found = {}
    for place, name in enumerate(names):

        def epochs(done: int, _: int, place: int = place) -> None:
            report(place * protocol.epochs + done, len(names) * protocol.epochs)

        cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
        with torch.random.fork_rng(cuda):
            torch.manual_seed(seed)
            classifier = protocol.networks[name](images.shape[1], int(labels.max()) + 1).to(device)
            found[name] = _learn(classifier, train, validation, (test_images, test_labels), protocol, epochs, device)
    return found


def _learn(
    classifier: nn.Module,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    protocol: Protocol,
    report: Report,
    device: torch.device | str,
) -> Accuracy:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=protocol.learning_rate, fused=fused(str(device)))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, protocol.step, gamma=0.2)

    averaged = MovingAverage(classifier, protocol.decay)  # like DPImageBench's
    images_of, labels_of = (taker(part, str(device)) for part in train)
    best, weights = Accuracy(0.0, -1.0, 0), {}
    for epoch in range(1, protocol.epochs + 1):
        classifier.train()
        for chosen in torch.randperm(len(train[0])).split(protocol.batch):
            logits = classifier(_normalized(images_of(chosen), device))  # B K
            loss = F.cross_entropy(logits, labels_of(chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.update_parameters(classifier)
        schedule.step()
        _copy_buffers(classifier, averaged.module)
        right = _share_right(averaged.module, validation, device)
        if right > best.validation:
            best = Accuracy(0.0, right, epoch)
            weights = {name: value.clone() for name, value in averaged.module.state_dict().items()}
        report(epoch, protocol.epochs)
    averaged.module.load_state_dict(weights)
    return Accuracy(_share_right(averaged.module, test, device), best.validation, best.epoch)


@torch.inference_mode()
def _share_right(classifier: nn.Module, data: tuple[Tensor, Tensor], device: torch.device | str) -> float:
    classifier.eval()
    logits = torch.cat([classifier(_normalized(batch, device)).cpu() for batch in data[0].split(500)])
    return float((logits.argmax(1) == data[1].cpu()).double().mean())


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy the current statistics of batch normalisation, which are not averaged."""
    for old, new in zip(target.buffers(), source.buffers(), strict=True):
        old.copy_(new)


def _normalized(images: Tensor, device: torch.device | str) -> Tensor:
    """Scale uint8 in 0..255 to float32 in -1..1."""
    return images.to(device).float() / 127.5 - 1
