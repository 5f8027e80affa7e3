"""May a ready-made model have seen the sensitive images, or the public images be some of them? No ε covers that.

A method says what its weights were trained on (`wavedp.methods.Method.seen`), a dataset which public sets may hold its
images (MAY_BE_IN) and by which name others call it (KNOWN_AS). Where the two meet, or nobody says what a model saw and
the sensitive set is public, a trial warns. It cannot know: LAION is of the web's pictures, as COCO and CelebA are.
"""

from __future__ import annotations

from collections.abc import Mapping

from wavedp import data
from wavedp.config import DataConfig

INSTEAD = "find out, or use another, since no ε covers what is learned there."


def warn(
    sensitive: DataConfig, models: Mapping[str, tuple[str, ...] | None], public: DataConfig | None = None
) -> list[str]:
    """A sentence for each model that may have seen images, or captions, of the sensitive set, and for public images
    that may be them in another crop, which wavedp.data.overlap does not find.

    models: {what the sentence calls it: the names of the sets that it was trained on; None: nobody says}.
    """
    name, holders = sensitive.name, getattr(data.source_of(sensitive.name), "MAY_BE_IN", ())
    if not holders:  # not a public set: who has it knows who had it
        return []
    warned = []
    for model, sets in models.items():
        shared = " and ".join(each for each in sets or () if each in holders)
        if sets is None:
            warned.append(
                f"nobody says what {model} was trained on, and it may have seen {name}, which is public: {INSTEAD}"
            )
        elif shared:
            warned.append(f"{model} was trained on {shared}, which may hold images or captions of {name}: {INSTEAD}")
    known = None if public is None else getattr(data.source_of(public.name), "KNOWN_AS", None)
    if known in holders:
        warned.append(f"the public images are of {known}, which may hold images of {name} in another crop: {INSTEAD}")
    return warned
