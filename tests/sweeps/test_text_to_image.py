"""The text-to-image sweep, whole, in miniature."""

from clip_folder import small_clip
from typed import rows, run


def test_text_to_image_on_captioned_faces(tmp_path):
    """The whole chain for public sentences, with FID and what a CLIP model (small, of random weights) says of each."""
    clip = small_clip(tmp_path / "clip")
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
