"""May a ready-made public model have seen the sensitive images? What it learned of them no ε covers.

A method says what its weights were trained on (`wavedp.methods.Method.seen`); a dataset says which public sets may hold
its images (MAY_BE_IN). Where the two meet, or nobody says what a model saw
and the set is public, a trial warns. It cannot know: LAION is made of the web's pictures, as COCO and CelebA are.
"""

from __future__ import annotations

from collections.abc import Mapping

from wavedp import data
from wavedp.config import DataConfig


def warn(sensitive: DataConfig, models: Mapping[str, tuple[str, ...] | None]) -> list[str]:
    """A sentence for each model that may have seen images, or captions, of the sensitive set.

    models: {what the sentence calls it: the names of the sets that it was trained on; None: nobody says}.
    """
    holders = getattr(data.source_of(sensitive.name), "MAY_BE_IN", ())
    warned = []
    for model, sets in models.items():
        if not holders:  # not a public set: who has it knows who had it
            continue
        shared = [name for name in sets or () if name in holders]
        if sets is None:
            warned.append(
                f"nobody says what {model} was trained on, and {sensitive.name} is a public set that it may have seen: "
                "find out, or use a model whose training set is known, since no ε covers what it learned there."
            )
        elif shared:
            warned.append(
                f"{model} was trained on {' and '.join(shared)}, which may hold images or captions of "
                f"{sensitive.name}: find out, or use a model that did not see them, since no ε covers what it learned "
                "there."
            )
    return warned
