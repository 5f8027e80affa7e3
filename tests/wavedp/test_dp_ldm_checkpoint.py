"""`dp_ldm_checkpoint` and `dp_lora_checkpoint` on random folders in diffusers' layouts: loading, refusals, what a
private fit moves, every grad_sample_mode against a loop over records. Their mechanism is in test_dp_sgd_rooms.py."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wavedp import chain, checks, model_checks
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.denoising import averaged, draws_of
from wavedp.generators.dp_ldm_checkpoint import parts
from wavedp.generators.dp_ldm_checkpoint.facts import facts_of
from wavedp.generators.dp_ldm_checkpoint.model import CheckpointModel
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import RecordGradients, trainable
from wavedp.progress import silent
from wavedp.testing.checkpoints import random_diffusers
from wavedp.testing.generators import GeneratorSuite

NAMES = ["dp_ldm_checkpoint", "dp_lora_checkpoint"]
SIDE, CAPTIONS = 16, ["a small bright disk", "a dark ring", "two bars, one short"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    made = {kind: str(random_diffusers(root / kind, kind, SIDE)) for kind in ("ldm", "sd")}
    return {**made, "other": str(random_diffusers(root / "other", "ldm", SIDE, seed=1))}


class FromFolder(GeneratorSuite):
    @pytest.fixture(autouse=True)
    def folder(self, folders):
        type(self).folders, type(self).other = folders, {"checkpoint": folders["other"]}


class TestDPLDMWithText(FromFolder):
    def config(self):
        return configure("generator", "dp_ldm_checkpoint", checkpoint=self.folders["ldm"])

    def trial(self, base):
        privacy = dataclasses.replace(base.privacy, batch_size=2, steps=2)
        return dataclasses.replace(base, level=0, upscaler="identity", privacy=privacy)


class TestDPLoRAOfClassesWithEverything(FromFolder):
    """Views, dropout and guidance, on grey images; Stable Diffusion's layout."""

    def config(self):
        return configure(
            "generator",
            "dp_lora_checkpoint",
            checkpoint=self.folders["sd"],
            conditioning="class",
            rank=2,
        )

    def trial(self, base):
        return dataclasses.replace(
            base,
            level=0,
            upscaler="identity",
            privacy=dataclasses.replace(base.privacy, batch_size=2, steps=2, views=2, optimizer="adam_bc"),
            sampling=dataclasses.replace(base.sampling, guidance=2.0),
        )


def made(folder, name="dp_ldm_checkpoint", channels=3, **options):
    rank = {"rank": 2} if "lora" in name else {}
    config = configure("generator", name, checkpoint=str(folder), **rank, **options)
    return CheckpointModel(config, facts_of(str(folder)), (channels, SIDE, SIDE), 3, "cpu")


def records(model, n=4, views=1, channels=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, channels, SIDE, SIDE, generator=generator)
    if model.config.conditioning == "class":
        return images, torch.arange(n) % 3
    rows = [CAPTIONS[(i + v) % 3] + "s" * i for i in range(n) for v in range(views)]
    return images, model.encode_captions(rows).unflatten(0, (n, views))


def fitted(model, folder, privacy=None, sigma=1.5, steps=2, n=6):
    privacy = privacy or PrivacyConfig(epsilon=100.0, delta=1e-3, batch_size=3, steps=steps)
    fit = FitSettings(privacy, {"private_fit": Mechanism(3 / n, sigma, steps)}, 5, folder / "c")
    weights = model.fit_public(*records(model, n), 0, silent)
    return weights, model.fit_private(weights, *records(model, n, privacy.views), fit, silent).weights


@pytest.mark.parametrize("kind", ["ldm", "sd"])
def test_a_folder_is_what_the_pipeline_of_diffusers_makes_of_it(folders, kind):
    """The same images from the same noise: text encoder, guidance, steps, scale of latents."""
    import diffusers

    model, sampling = made(folders[kind]), SamplingConfig(diffusion_steps=4, guidance=3.0, batch_size=2)
    weights, ids = model.fit_public(*records(model), 0, silent), model.encode_captions(CAPTIONS)
    ours = model.sample(weights, ids, sampling, 7, silent)
    cls = getattr(diffusers, "LDMTextToImagePipeline" if kind == "ldm" else "StableDiffusionPipeline")
    options = {"safety_checker": None, "feature_extractor": None} if kind == "sd" else {}
    pipeline = cls.from_pretrained(folders[kind], local_files_only=True, **options)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 0.0, "output_type": "pt"}
    latents = model.noise(3, 7)[0]
    if kind == "ldm":  # its pipeline pads to 77 tokens and divides sides by 8, as the published model wants
        states, empty = pipeline.bert(ids)[0], pipeline.bert(model.encode_captions([""] * 3))[0]
        steps = pipeline.scheduler
        steps.set_timesteps(4)
        for t in steps.timesteps:
            both = pipeline.unet(torch.cat([latents] * 2), t, encoder_hidden_states=torch.cat([empty, states])).sample
            without, shown = both.chunk(2)
            latents = steps.step(without + 3.0 * (shown - without), t, latents, eta=0.0).prev_sample
        theirs = (pipeline.vqvae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    else:
        theirs = pipeline(CAPTIONS, latents=latents, height=SIDE, width=SIDE, **asked).images
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("conditioning", ["text", "class"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fit_moves_what_it_says_and_no_other_tensor(folders, name, conditioning, tmp_path):
    model = made(folders["ldm"], name, conditioning=conditioning)
    before, own = model.network(3).state_dict(), set() if conditioning == "text" else {"condition.table.weight"}
    weights, after = fitted(model, tmp_path)
    whole = model.network(3, after).state_dict()
    assert whole.keys() == before.keys()
    moved = {key for key in whole if not torch.equal(whole[key], {**before, **weights}[key])}
    attention = {key for key in whole if ".attentions." in key}
    assert len({key.split(".attentions.")[0] for key in attention}) == 3  # down, middle and up
    if "lora" in name:
        attention = {
            key
            for key in attention
            if key.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"))
        }
        change = after[min(attention)] - weights[min(attention)]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    assert moved == attention | own == set(after) == set(weights)
    # And whatever is not in the released weights is the folder's, to the bit.
    assert all(torch.equal(value, before[key]) for key, value in weights.items() if key not in own)
    vae, encoder = (load_file(Path(folders["ldm"], part, file)) for part, file in (
        ("vqvae", "diffusion_pytorch_model.safetensors"), ("bert", "model.safetensors")))  # fmt: skip
    for kept, network in ((vae, model._vae), (encoder, model.text._frozen[0])) if conditioning == "text" else ():
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in kept.items())


def attended(model):
    """Its network as a private fit trains it, with updates away from their zeros, and the loss."""
    network = model.network(3, None)
    model.adapt(network, PrivacyConfig(), 0)
    torch.manual_seed(2)
    for parameter in trainable(network).values():
        with torch.no_grad():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.train()


@pytest.mark.parametrize("mode", ["hooks", "ghost", "bookkeeping", "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_every_mode_finds_what_a_loop_over_records_finds(folders, name, mode):
    """Text, dropped captions; views and noises too where the mode allows several passes."""
    several = 1 if mode == "ghost" else 2
    model = made(folders["ldm"], name, multiplicity=several)
    network = attended(model)
    loss = averaged(model.errors(), 0.4, several, several, False, model.data_of)
    images, ids = records(model, views=several)
    latents = model._latents(images, several)
    draws = torch.rand(4, draws_of(model.shape, several, several), generator=torch.Generator().manual_seed(3))
    batch = (latents, ids, draws)
    rows = []
    for row in range(4):
        one = loss(network, *(tensor[row : row + 1] for tensor in batch)).sum()
        rows.append(torch.autograd.grad(one, list(trainable(network).values())))
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in row)) for row in rows]
    bound = sorted(norms)[1]  # some are clipped, and some not
    expected = [sum(min(1.0, bound / n) * g for n, g in zip(norms, c, strict=True)) for c in zip(*rows, strict=True)]
    gradients = RecordGradients(network, bound, mode)
    found = gradients.clipped_sum(loss, batch)
    gradients.close()
    size = max(float(theirs.abs().max()) for theirs in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * size


@pytest.mark.parametrize("mode", ["hooks", "ghost", "bookkeeping", "auto"])
def test_a_private_fit_ends_where_every_mode_ends(folders, mode, tmp_path):
    ends = {}
    for asked in ("bookkeeping", mode):
        privacy = PrivacyConfig(
            epsilon=100.0, delta=1e-3, batch_size=3, steps=2, grad_sample_mode=asked, optimizer="sgd"
        )
        model = made(folders["sd"], condition_dropout=0.3)
        (tmp_path / asked).mkdir(exist_ok=True)
        ends[asked] = fitted(model, tmp_path / asked, privacy)[1]
    for key, value in ends["bookkeeping"].items():
        torch.testing.assert_close(ends[mode][key], value, rtol=1e-5, atol=1e-6)


def test_a_record_s_captions_turn_its_gradient_and_never_lengthen_it(folders):
    model = made(folders["ldm"])
    network = attended(model)
    images, _ = records(model, n=1)
    latents = model._latents(images, 1).expand(-1, 3, -1, -1, -1)
    loss = averaged(model.errors(), 0.0, 3, 1, False, model.data_of)
    draws = torch.rand(1, draws_of(model.shape, 1, 1)).repeat(1, 3)  # the same noise for every caption
    found = []
    for order in ([0, 0, 0], [1, 1, 1], [0, 1, 2]):
        ids = model.encode_captions([CAPTIONS[i] for i in order])[None]
        gradients = RecordGradients(network, 1e-4, "auto")
        found.append(torch.cat([each.flatten() for each in gradients.clipped_sum(loss, (latents, ids, draws))]))
        gradients.close()
    assert all(float(each.norm()) <= 1e-4 * (1 + 1e-5) for each in found)
    assert float(torch.cosine_similarity(found[0], found[1], dim=0)) < 0.999
    assert not torch.allclose(found[2], found[0], rtol=0, atol=1e-7)


def test_velocity_and_noise_are_what_the_folder_s_scheduler_says(tmp_path):
    """A U-Net that gives 0 errs by the target itself."""
    for prediction in ("epsilon", "v_prediction"):
        model = made(random_diffusers(tmp_path / prediction, "sd", SIDE, prediction=prediction))
        data, numbers = torch.randn(2, *model.shape), torch.rand(2, 1 + 4 * 8 * 8)
        errors = model.errors()(lambda noisy, times, shown: torch.zeros_like(noisy), data, None, numbers)
        noise = torch.special.ndtri(numbers[:, 1:].double() + 2.0**-25).float().view_as(data)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        kept = (1 - betas).cumprod(0)[(numbers[:, 0] * 1000).long()].view(2, 1, 1, 1)
        target = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * data
        torch.testing.assert_close(errors, target.square().mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_it_never_draws_dropout_and_never_trains_the_encoder(folders, tmp_path):
    config = Path(folders["sd"], "unet", "config.json")
    kept = config.read_text(encoding="utf-8")
    try:
        config.write_text(json.dumps({**json.loads(kept), "dropout": 0.5}), encoding="utf-8")
        network = attended(made(folders["sd"]))
    finally:
        config.write_text(kept, encoding="utf-8")
    assert {layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)} == {0.0}
    assert not any(name.startswith("condition") for name in trainable(network))


def copied(folder, to, part, change):
    """The folder with other weights of a part: change gets the tensors, and gives those or writes a file itself."""
    shutil.copytree(folder, to)
    if part == "tokenizer":
        shutil.rmtree(to / part)
        return to
    (file,) = (to / part).glob("*.safetensors")
    tensors = load_file(file)
    file.unlink()
    changed = change(tensors, file)
    if changed is not None:
        save_file(changed, file)
    return to


def without(name):
    return lambda tensors, file: {key: value for key, value in tensors.items() if key != name}


def foreign(tensors, file):
    return {**tensors, "foreign.weight": torch.ones(2)}


def wider(name):
    return lambda tensors, file: {**tensors, name: torch.ones(3, 3)}


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


CONV, EMBEDDED = "conv_in.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("unet", without(CONV), rf"unet has no weights {CONV}, which its config.json asks for"),
        ("unet", foreign, r"unet has weights foreign.weight, for which its config.json has no place"),
        ("unet", wider(CONV), rf"{CONV} of shape \(3, 3\), and its config.json asks for \(8, 4, 3, 3\)"),
        ("vqvae", without("encoder.conv_in.bias"), r"vqvae has no weights encoder.conv_in.bias"),
        ("bert", without(EMBEDDED), rf"bert has no weights {EMBEDDED}"),
        ("bert", wider(EMBEDDED), rf"{EMBEDDED} of shape \(3, 3\)"),
        ("bert", lambda tensors, file: None, r"bert holds no weights \(\*\.safetensors or \*\.bin\)"),
        ("bert", lambda tensors, file: shutil.rmtree(file.parent), r"bert is missing or has no config\.json"),
        ("tokenizer", lambda tensors, file: None, r"tokenizer is missing, which model_index\.json beside it names"),
        ("unet", lambda tensors, file: file.write_bytes(b"nothing") and None, r"model\.safetensors is damaged \("),
    ],
)
def test_weights_of_another_model_are_refused_by_their_first_key(folders, tmp_path, part, change, words):
    folder = copied(folders["ldm"], tmp_path / "other", part, change)
    with pytest.raises(UserError, match=words) as refusal:
        model_checks.check_models(trial(folder))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("part", ["unet", "vqvae", "bert"])
def test_torch_files_are_read_and_pickles_of_other_objects_are_not_run(folders, tmp_path, part):
    witness = tmp_path / "ran"

    def pickled(extra):
        name = "pytorch_model.bin" if part == "bert" else "diffusion_pytorch_model.bin"
        return lambda tensors, file: torch.save({**tensors, **extra}, file.with_name(name))

    plain = copied(folders["ldm"], tmp_path / "plain", part, pickled({}))
    model_checks.check_models(trial(plain))
    bad = copied(folders["ldm"], tmp_path / "bad", part, pickled({"x": Malicious(str(witness))}))
    with pytest.raises(UserError, match=rf"{part} cannot be loaded .*weights_only=True"):
        model_checks.check_models(trial(bad))
    assert not witness.exists()


def test_the_autoencoder_of_2022_is_read_under_its_old_names(folders, tmp_path):
    """As CompVis/ldm-text2im-large-256 has them: query, key, value, proj_attn."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def renamed(tensors, file):
        found = {}
        for key, value in tensors.items():
            for new, was in old.items():
                key = key.replace(new, was)
            found[key] = value
        assert found.keys() != tensors.keys()
        return found

    folder = copied(folders["ldm"], tmp_path / "old", "vqvae", renamed)
    first, second = (parts.load(facts_of(str(path)), "vae").state_dict() for path in (folders["ldm"], folder))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def trial(folder, name="dp_ldm_checkpoint", size=SIDE, level=0, **options):
    images = DataConfig(name="procedural", size=size, channels=3, n_records=64)
    return TrialConfig(
        level=level,
        data=images,
        public=dataclasses.replace(images, split="public", n_records=32),
        generator=configure("generator", name, checkpoint=folder and str(folder), **options),
        privacy=PrivacyConfig(batch_size=16, steps=2),
        sampling=SamplingConfig(n=4, diffusion_steps=2),
        upscaler="identity" if level == 0 else "nearest",
        metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
    )


def edited(folder, to, file, **changes):
    shutil.copytree(folder, to)
    path = to / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return to


def test_what_it_cannot_do_is_refused_before_any_weights_are_read(folders, tmp_path):
    ldm = folders["ldm"]
    assert checks.check(trial(ldm)) == []
    index, unet, steps = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
    xl = edited(ldm, tmp_path / "xl", index, _class_name="StableDiffusionXLPipeline")
    quantised = edited(ldm, tmp_path / "vq", index, vqvae=["diffusers", "VQModel"])
    painting = edited(ldm, tmp_path / "in", unet, in_channels=9)
    sample = edited(ldm, tmp_path / "sample", steps, prediction_type="sample")
    for asked, words in (
        (trial(None), "generator.checkpoint is not set"),
        (trial(tmp_path), "has no model_index.json"),
        (trial(ldm, size=32), r"makes images of 16×16, and level=0 of this data is 32×32: set data.size and level"),
        (trial(xl), "holds StableDiffusionXLPipeline, which is not fine-tuned here"),
        (trial(quantised), "has VQModel as its vqvae"),
        (trial(painting), "takes 9 channels and gives 4, and its latents have 4"),
        (trial(sample), "predicts sample"),
        (trial(ldm, "dp_lora_checkpoint", rank=8), "rank=8 is not a low rank of layers 8 wide: use 1 to 7"),
        (dataclasses.replace(trial(ldm), sampling=SamplingConfig(diffusion_steps=1001)), "checkpoint's 1000 timesteps"),
        (
            dataclasses.replace(
                trial(ldm, multiplicity=2), privacy=PrivacyConfig(batch_size=16, steps=2, grad_sample_mode="ghost")
            ),
            "ghost sees one forward pass a record, and generator.multiplicity=2",
        ),
    ):
        with pytest.raises(UserError, match=words):
            checks.check(asked)
    assert checks.check(trial(ldm, size=32, level=1)) == []  # a coarse image of the checkpoint's size


def test_keys_follow_the_folder_s_content_and_not_its_place(folders, tmp_path):
    moved = shutil.copytree(folders["ldm"], tmp_path / "moved")
    assert chain.keys(trial(folders["ldm"])) == chain.keys(trial(moved))
    before, after = chain.keys(trial(folders["ldm"])), chain.keys(trial(folders["other"]))
    assert all(before[stage] != after[stage] for stage in ("pretrain", "private_fit", "coarse_samples"))
