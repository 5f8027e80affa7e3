"""Checkpoints of random weights in the layouts of published ones, as small as they work: for tests, and for trying a
configuration before the download.

    python -m wavedp.testing.checkpoints ldm FOLDER --side 32
    python -m wavedp.testing.checkpoints t2i FOLDER
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path
from typing import Any, Literal

import torch

LETTERS = string.ascii_lowercase + string.digits + ".,"
LENGTH, WIDTH = 16, 16  # tokens of a caption, and width of their states


def random_diffusers(
    folder: Path, kind: Literal["ldm", "sd"] = "ldm", side: int = 16, seed: int = 0, prediction: str = "epsilon"
) -> Path:
    """A folder of LDMTextToImagePipeline (ldm) or StableDiffusionPipeline (sd) for images of `side` pixels, a multiple
    of 8: an autoencoder by 2, a U-Net with attention at its finer level and in the middle, and a text encoder that
    knows letters. Its layers are those of the published models, of a few channels."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(seed)
    vae, encoder = ("vqvae", "bert") if kind == "ldm" else ("vae", "text_encoder")
    networks: dict[str, Any] = {
        vae: AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=side,
        ),
        "unet": UNet2DConditionModel(
            sample_size=side // 2,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        encoder: _ldm_bert() if kind == "ldm" else _clip(),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    _save_words(folder / "tokenizer", kind)
    parts = {
        vae: ["diffusers", "AutoencoderKL"],
        encoder: ["latent_diffusion", "LDMBertModel"] if kind == "ldm" else ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "BertTokenizer" if kind == "ldm" else "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    pipeline = "LDMTextToImagePipeline" if kind == "ldm" else "StableDiffusionPipeline"
    _write(folder / "model_index.json", {"_class_name": pipeline, "_diffusers_version": "0.42.0", **parts})
    process = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    more = {"clip_sample": False, "num_train_timesteps": 1000, "prediction_type": prediction, "steps_offset": 1}
    _write(folder / "scheduler" / "scheduler_config.json", process | more)
    return folder


VQ = {"channels": 64, "multipliers": "1-1-2", "latent_channels": 16, "codes": 24, "code_width": 4}
GPT = {"width": 16, "depth": 2, "heads": 2}
"""Sizes of `random_llamagen`, as fields of tokenizer=llamagen and generator=dp_llamagen_checkpoint."""


def random_llamagen(folder: Path, kind: Literal["c2i", "t2i"] = "t2i", seed: int = 0) -> Path:
    """A folder with vq.pt, gpt.pt and, for t2i, t5, a text encoder that knows letters: the keys of LlamaGen's files, in
    the sizes of VQ and GPT; 4×4 pixels a code. c2i knows 5 classes."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    torch.save({"model": _random(_vq_shapes())}, folder / "vq.pt")
    shapes, width = _gpt_shapes(), GPT["width"]
    if kind == "c2i":
        shapes["cls_embedding.embedding_table.weight"] = (6, width)
    else:
        shapes |= {
            "cls_embedding.cap_proj.fc1.weight": (width, WIDTH),
            "cls_embedding.cap_proj.fc2.weight": (width,) * 2,
        }
        shapes["cls_embedding.uncond_embedding"] = (LENGTH, WIDTH)
        _save_t5(folder / "t5")
    torch.save({"module": _random(shapes)}, folder / "gpt.pt")
    return folder


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Norms' weights about 1, others of standard deviation one by the root of their inputs."""
    found = {}
    for name, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel())
        found[name] = (
            1 + 0.1 * torch.randn(shape)
            if "norm" in name and name.endswith("weight")
            else torch.randn(shape) / fan**0.5
        )
    return found


def _gpt_shapes() -> dict[str, tuple[int, ...]]:
    width, inner = GPT["width"], 48  # two thirds of four times 16, up to a multiple of 16
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (24, width), "norm.weight": (width,)}
    shapes["output.weight"] = (24, width)
    for i in range(GPT["depth"]):
        layer = f"layers.{i}"
        shapes |= {f"{layer}.attention.wqkv.weight": (3 * width, width), f"{layer}.attention.wo.weight": (width, width)}
        shapes |= {f"{layer}.feed_forward.w{n}.weight": (inner, width) for n in (1, 3)}
        shapes[f"{layer}.feed_forward.w2.weight"] = (width, inner)
        shapes |= {f"{layer}.{norm}.weight": (width,) for norm in ("attention_norm", "ffn_norm")}
    return shapes


def _vq_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, before: int, after: int, side: int = 3) -> None:
        shapes.update({f"{name}.weight": (after, before, side, side), f"{name}.bias": (after,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def residual(name: str, before: int, after: int) -> None:
        norm(f"{name}.norm1", before)
        conv(f"{name}.conv1", before, after)
        norm(f"{name}.norm2", after)
        conv(f"{name}.conv2", after, after)
        if before != after:
            conv(f"{name}.nin_shortcut", before, after, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def half(name: str, widths: list[int], blocks: int, attends: int, resize: str, ends: tuple[int, int]) -> None:
        conv(f"{name}.conv_in", ends[0], widths[0])
        for i in range(3):
            for j in range(blocks):
                residual(f"{name}.conv_blocks.{i}.res.{j}", widths[i] if j == 0 else widths[i + 1], widths[i + 1])
                if i == attends:
                    attention(f"{name}.conv_blocks.{i}.attn.{j}", widths[i + 1])
            if i < 2:
                conv(f"{name}.conv_blocks.{i}.{resize}.conv", widths[i + 1], widths[i + 1])
        middle = widths[-1] if resize == "downsample" else widths[0]
        residual(f"{name}.mid.0", middle, middle)
        attention(f"{name}.mid.1", middle)
        residual(f"{name}.mid.2", middle, middle)
        norm(f"{name}.norm_out", widths[-1])
        conv(f"{name}.conv_out", widths[-1], ends[1])

    half("encoder", [64, 64, 64, 128], 2, 2, "downsample", (3, 16))
    half("decoder", [128, 128, 64, 64], 3, 0, "upsample", (16, 3))
    conv("quant_conv", 16, 4, 1)
    conv("post_quant_conv", 4, 16, 1)
    return {**shapes, "quantize.embedding.weight": (24, 4), "quantize.codebook_used": (65536,)}


def _save_t5(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    config = T5Config(vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    letters.normalizer = normalizers.Replace(" ", "")
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=LENGTH
    ).save_pretrained(folder)


def _ldm_bert() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    return LDMBertModel(
        LDMBertConfig(
            vocab_size=2 * len(LETTERS) + 5,
            max_position_embeddings=LENGTH,
            encoder_layers=1,
            encoder_ffn_dim=16,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=WIDTH,
        )
    )


def _clip() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    n_words = 2 * len(LETTERS) + 2
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=n_words,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=n_words - 2,
            eos_token_id=n_words - 1,
        )
    )


def _save_words(folder: Path, kind: str) -> None:
    """A tokenizer of letters, in the files of BERT's or CLIP's."""
    folder.mkdir(parents=True)
    most = {"model_max_length": LENGTH}
    if kind == "ldm":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **most})
        return
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", **most})


def _write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=1), encoding="utf-8")


def main() -> None:
    """Write a checkpoint of random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("ldm", "sd", "c2i", "t2i"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels (ldm, sd)")
    given = parser.parse_args()
    if given.kind in ("ldm", "sd"):
        print(random_diffusers(given.folder, given.kind, given.side))
    else:
        print(random_llamagen(given.folder, given.kind))


if __name__ == "__main__":
    main()
