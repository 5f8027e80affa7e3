"""The text-to-image sweep, whole, in miniature."""

import json

from typed import rows, run


def test_text_to_image_on_captioned_faces(tmp_path):
    """The whole chain for public sentences, with FID and what a CLIP model (small, of random weights) says of each."""
    clip = random_clip(tmp_path / "clip")
    overrides = [
        "+sweep=text_to_image", "preset=tiny", "sweep.grid.epsilon=[10]", "data.n_records=96", "data.size=32",
        "privacy.batch_size=16", f"metrics.also=[{{name: text, clip: {clip}}}]", "metrics.floor=false",
        "metrics.kid=false", "metrics.fid_samples=8", "metrics.reference_samples=16", "sampling.n=12",
    ]  # fmt: skip
    done = run(tmp_path, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows(tmp_path, "text_to_image")
    assert row["status"] == "done"
    assert row["settings"]["data"]["name"] == "avatars"
    assert row["settings"]["generator"]["conditioning"] == "tokens"
    assert {name.split("_")[0] for name in row["metrics"]} == {"fid", "text"}
    assert "drawn for public sentences of avatars that are made of no record" in row["notes"]
    (line,) = [line for line in rows(tmp_path, "text_to_image", "ledger.jsonl") if line["kind"] == "dp_sgd"]
    assert line["n_records"] == 96, "a record is a picture with all of its captions"
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n")
    refused = run(tmp_path, *overrides, f"sampling.prompts={empty}", "study=other")
    assert refused.returncode == 2
    assert "prompts.txt holds no prompt: write one public prompt a line." in refused.stderr


def random_clip(folder):
    """A CLIP model's folder, as save_pretrained writes it."""
    import transformers

    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in "abcdefgh"), *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    seen = {**size, "image_size": 16, "patch_size": 8}
    transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=seen, projection_dim=8)
    ).save_pretrained(folder)
    shape = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessor(**shape).save_pretrained(folder)
    return folder
