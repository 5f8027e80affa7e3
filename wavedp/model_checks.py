"""Checks of a trial that open files, before anything runs: the weights of its models and metrics, its prompts, and
public pictures that look like copies of sensitive ones. `wavedp.checks` sees to everything else.

torch is imported only where a model has to be tried: a study of thousands of trials on published networks and filters
is checked without it.
"""

from __future__ import annotations

import logging
from functools import cache, partial

from wavedp import data, methods, metrics
from wavedp.chain import n_records, public_reads
from wavedp.config import DataConfig, MetricsConfig, TrialConfig
from wavedp.data import overlap
from wavedp.methods import canonical


def check_models(trial: TrialConfig) -> None:
    """Check that weights for stage two and the metrics exist, are intact and accept these images; warn of public images
    that look like copies of sensitive ones. Raises UserError."""
    for warning in overlap.warn_of_copies(trial.data, public_reads(trial)):
        _warn(warning)
    generator = methods.generator(trial)
    by_text = generator.conditioning(trial) == "text"
    if by_text:
        from wavedp import stages, text

        if not generator.encodes_captions:
            form = generator.text_tokens(canonical(trial))
            text.check(form.encoder if form else None)
        for config, split in dict.fromkeys([(trial.data, "train"), *generator.needs(trial).data]):
            _require_captions(config, split)
        stages.prompts(canonical(trial))
    for method in (methods.tokenizer(trial), generator, methods.upscaler(trial)):
        method.check_models(trial)
    _check_metrics(trial.metrics, trial.data, trial.sampling.n, by_text)


@cache  # once a process
def _warn(sentence: str) -> None:
    logging.getLogger(__name__).warning("Warning: %s", sentence)


@cache  # the trials of a study ask the same again and again
def _require_captions(config: DataConfig, split: data.Split) -> None:
    """Raises UserError for a record without a caption."""
    from wavedp import text

    if data.has_images(config):
        for place, record in enumerate(data.captions(config, split)):
            text.captions_of(record, place, f"{config.name} ({split})")


@cache  # the trials of a study ask the same again and again
def _check_metrics(config: MetricsConfig, of: DataConfig, n_generated: int, described: bool) -> None:
    counts, n_classes = partial(n_records, of), data.n_classes(of)
    given = metrics.Given(config, counts, n_generated, described=described, n_classes=n_classes, shape=data.shape(of))
    metrics.check(given)
