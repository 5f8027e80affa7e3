"""A CLIP model of a few random weights, in the folder that save_pretrained of transformers writes."""

import json
from pathlib import Path

import torch


def small_clip(folder: Path, side: int = 16) -> Path:
    """Write it into the folder. side: of the images that it takes, in pixels; its words are of the letters a to h."""
    import transformers  # which the extra `dev` brings

    folder.mkdir(exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in "abcdefgh"), *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    seen = {**size, "image_size": side, "patch_size": side // 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=text, vision_config=seen, projection_dim=8)
        transformers.CLIPModel(config).save_pretrained(folder)
    shape = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    transformers.CLIPImageProcessor(**shape).save_pretrained(folder)
    return folder
