"""Show how images form during sampling, with public models of three blur schedules.

    python -m wavedp.reports.reverse [--train-steps 2000] [--steps 50] [--store .wavedp/store]
                                       [--results runs/blur_reverse]

The models are artifacts of the stage `upscaler` (U-Nets of the whole image, trained on Open Clip Art), found in the
store or made. The schedules are DDPM, quartic from coarse to fine, and the control, quartic from fine to coarse. No
sensitive image is read, so no ledger line is needed. reverse.npz holds, from the same initial noise for all schedules,

    noisy, predicted    input of a step and the data predicted from it, float16 [P n K C H W] in about [-1, 1],
                        for P schedules, n images, K of the steps
    times               [K], the same for all schedules, since the grid does not depend on the blur
    about               JSON: the P schedules, and the keys of their models
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavedp import stages
from wavedp.chain import keys
from wavedp.command import command
from wavedp.config import DataConfig, DiffusionConfig, SamplingConfig, TrialConfig, configure
from wavedp.progress import printed
from wavedp.store import Store, write_npz
from wavedp.upscalers.blur_diffusion import deblurring

SHOWN_STEPS, IMAGES, SEED = 8, 3, 0
PUBLIC = DataConfig(name="openclipart")
SCHEDULES = (("none", "coarse_to_fine"), ("quartic", "coarse_to_fine"), ("quartic", "fine_to_coarse"))


def model_trial(
    blur: str, blur_order: str, train_steps: int, diffusion: DiffusionConfig, public: DataConfig
) -> TrialConfig:
    """Return a trial whose stage `upscaler` trains the model of this schedule."""
    return TrialConfig(
        data=DataConfig(name="procedural", split="public", size=public.size, channels=public.channels),
        public=public,
        upscaler=configure("upscaler", "blur_diffusion", train_steps=train_steps, blur=blur),
        diffusion=dataclasses.replace(diffusion, blur_order=blur_order),  # type: ignore[arg-type]
    )


def draw(trial: TrialConfig, sampling: SamplingConfig, store: Store, device: str) -> tuple[list[int], Tensor, Tensor]:
    """Return times [K], states and predicted data of K steps, each [n K C H W]. Raises UserError as the stage does."""
    artifact, _ = stages.make("upscaler", trial, store, device, printed("training"))
    model = deblurring(trial, device)
    noisy, predicted = model.trace(
        artifact.tensors("weights"), torch.zeros(IMAGES, dtype=torch.long), sampling, seed=SEED
    )
    shown = torch.linspace(0, sampling.diffusion_steps - 1, min(SHOWN_STEPS, sampling.diffusion_steps)).round().long()
    return model.times(sampling)[shown].tolist(), noisy[:, shown], predicted[:, shown]


@command
def main(arguments: list[str] | None = None, public: DataConfig = PUBLIC) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.reverse", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--train-steps", type=int, default=2000, help="of each model (%(default)s)")
    parser.add_argument("--channels", type=int, default=DiffusionConfig().channels, help="of the U-Net (%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="of sampling (%(default)s)")
    parser.add_argument("--store", default=".wavedp/store")
    parser.add_argument("--results", type=Path, default=Path("runs/blur_reverse"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    sampling = SamplingConfig(diffusion_steps=chosen.steps)
    diffusion = DiffusionConfig(channels=chosen.channels)
    trials = [model_trial(blur, order, chosen.train_steps, diffusion, public) for blur, order in SCHEDULES]
    drawn = [draw(trial, sampling, Store(chosen.store), chosen.device) for trial in trials]
    times, noisy, predicted = zip(*drawn, strict=True)
    about = {
        "schedules": [dataclasses.asdict(deblurring(trial, chosen.device).process) for trial in trials],
        "models": [keys(trial)["upscaler"] for trial in trials],
        "train_steps": chosen.train_steps,
        "steps": chosen.steps,
        "seed": SEED,
    }
    write_npz(
        chosen.results / "reverse.npz",
        noisy=torch.stack(noisy).half().numpy(),
        predicted=torch.stack(predicted).half().numpy(),
        times=np.array(times[0]),
        about=np.array(json.dumps(about)),
    )
    print(f"{chosen.results}/reverse.npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
