"""Hand a trial's images over: all of them in files, with a data card beside them (README.md)."""

from __future__ import annotations

from pathlib import Path

from wavedp import chain, data, stages
from wavedp.card import Made, card_text
from wavedp.config import TrialConfig
from wavedp.data.image_files import Form, ImageSet, require_empty, write
from wavedp.errors import UserError
from wavedp.finished import FinishedTrial
from wavedp.store import Artifact


def check(finished: FinishedTrial, folder: Path, not_private: bool) -> None:
    """Before any work. Raises UserError for a folder that is not empty, for a fit without a ledger line, whose ε nobody
    could state, and for copies of sensitive images, unless the user says that they are not private."""
    require_empty(folder)
    kind, lines = chain.use_of(finished.config), finished.releases()
    named = {line["stage_key"] for line in lines}
    expected = [stage for stage, own in chain.fit_kinds(finished.config).items() if own != "public"]
    if any(finished.row["keys"].get(stage) not in named for stage in expected):
        raise UserError(
            f"{finished.folder / 'ledger.jsonl'} has no line of the private fit of {finished.id}, so that its ε is not "
            "known: restore that file, or type the study's command again."
        )
    if kind == "real" and not not_private:
        raise UserError(
            f"the images of {finished.id} are the sensitive ones themselves (generator=real): name a trial of a "
            "fitted generator, or add --not-private."
        )


def hand_over(finished: FinishedTrial, made: Made, upscaled: Artifact, folder: Path, form: Form) -> int:
    """Write the images of a stage `upscale` and their card; returns how many. The card is written last."""
    samples = upscaled.tensors("samples")
    labels = samples["labels"].numpy()
    captions = stages.captions(made.config)
    images = ImageSet(
        samples["images"].numpy(),
        labels,
        ("image",) if captions is not None else _classes(made.config, int(labels.max()) + 1),
        None if captions is None else tuple(captions),
    )
    write(images, folder, form)
    (folder / "README.md").write_text(card_text(finished, made, images, form), encoding="utf-8")
    return len(labels)


def _classes(config: TrialConfig, at_least: int) -> tuple[str, ...]:
    """The classes' names; numbers where the sensitive set is not on this machine."""
    try:
        return data.class_names(config.data)
    except UserError:
        return tuple(map(str, range(at_least)))
