"""Weights that the user brings: files for spandrel, folders and hub models for diffusers. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
import shutil
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from wavedp import chain, checks, methods, registry
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.resize import Filter
from wavedp.testing.upscalers import UpscalerSuite, coarse_scenes
from wavedp.upscalers import __main__ as command
from wavedp.upscalers import check, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
THREE = {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "in_channels": 3}
DECODER = {
    **THREE,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test must not reach for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def compact(scale=2, channels=3, seed=0, strength=0.02):
    """RealESRGAN Compact adds its convolutions' output to the nearest-upsampled input: a weak last convolution makes a
    random network keep block means, as a trained one does."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(seed)
    model = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale)
    with torch.no_grad():
        model.body[-1].weight.mul_(strength)
        model.body[-1].bias.zero_()
    return model.state_dict()


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return configure("upscaler", "spandrel", path=str(path))


class TestSpandrel(UpscalerSuite):
    scale, network_channels, suffix = 2, 3, ".safetensors"

    @pytest.fixture(autouse=True)
    def file(self, tmp_path):
        self.saved = saved(compact(self.scale, self.network_channels), tmp_path / f"mine{self.suffix}")

    def config(self):
        return self.saved

    def test_its_bridge(self):
        assert load(self.saved).bridge(2) == (None if self.scale == 2 else "x4 then antialiased resize to x2")


class TestSpandrelOfOneChannel(TestSpandrel):
    scale, network_channels, suffix = 4, 1, ".pth"


def test_spandrel_gives_what_the_network_gives(tmp_path):
    """Random weights of two more architectures keep no block means: they are held against their own modules."""
    from spandrel.architectures.ESRGAN import ESRGAN
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    swin = SwinIR(img_size=16, window_size=8, depths=[2], embed_dim=8, num_heads=[2], mlp_ratio=2, upscale=2,
                  upsampler="pixelshuffle")  # fmt: skip
    images = coarse_scenes(2, 3, 16, 16)
    for model, scale in ((ESRGAN(num_filters=8, num_blocks=1, scale=4), 4), (swin, 2)):
        upscaler = load(saved(model.state_dict(), tmp_path / "model.pth"))
        with torch.inference_mode():
            expected = torch.cat([model.eval()(image) for image in images.split(1)]).clamp(0, 1)
        assert expected.std() > 1e-3, "or two black pictures would agree"
        torch.testing.assert_close(upscaler.upscale(images, scale), expected, atol=1e-5, rtol=0)


FACES = {"toRGB.0.weight": torch.zeros(1), "stylegan_decoder.style_mlp.1.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"some.weight": torch.zeros(1)},
            "an architecture that spandrel does not know: give the weights of one of .*ESRGAN",
        ),
        ({"body.0.weight": torch.zeros(1), "body.1.weight": torch.zeros(1)}, "spandrel cannot read .*: give a whole"),
        (lambda: compact(scale=1), "made for Restoration at x1, which is not super-resolution: give"),
        (lambda: compact(channels=4), "from 4 to 4 channels: give one from 1 to 1 or from 3 to 3"),
    ],
)
def test_other_weights_are_refused(tmp_path, state, message):
    config = saved(state() if callable(state) else state, tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=message):
        check(config, 2, (3, 7, 7))


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    missing = configure("upscaler", "spandrel", path=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth is not a file: give the \.pth"):
        load(missing)
    with pytest.raises(UserError, match=r"none\.pth is not a file"):  # before anything is planned, too
        chain.keys(trial(missing))
    with pytest.raises(UserError, match=r"needs weights: set upscaler\.path"):
        load(configure("upscaler", "spandrel"))
    config = saved(compact(), tmp_path / "mine.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(b"not these")
    with pytest.raises(UserError, match="spandrel cannot read"):
        load(config)


def random_ldm(folder):
    from diffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        in_channels=6,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **TINY,
    )
    vqvae = VQModel(latent_channels=3, num_vq_embeddings=64, **DECODER)
    LDMSuperResolutionPipeline(vqvae=vqvae, unet=unet, scheduler=DDIMScheduler()).save_pretrained(folder)


def random_sd(folder):
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline
    from diffusers import UNet2DConditionModel as ConditionalUNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = ConditionalUNet(
        sample_size=8,
        in_channels=7,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        num_class_embeds=1000,
        **TINY,
    )
    words = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    words |= {f"{letter}</w>": 26 + i for letter, i in words.items()}
    words |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    text = CLIPTextConfig(
        vocab_size=54,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    StableDiffusionUpscalePipeline(
        vae=AutoencoderKL(latent_channels=4, scaling_factor=0.08333, **DECODER),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=16),
        unet=unet,
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of tiny random pipelines by upscaler name."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("ldm_sr", "sd_x4")}
    random_ldm(folders["ldm_sr"])
    random_sd(folders["sd_x4"])
    return folders


def diffusing(pipelines, name, **options):
    return load(configure("upscaler", name, path=str(pipelines[name]), diffusion_steps=2, **options))


class TestLatentDiffusion(UpscalerSuite):
    """Random weights keep neither constants nor block means."""

    name = "ldm_sr"
    constant_tolerance = block_mean_tolerance = 1

    @pytest.fixture(autouse=True)
    def folder(self, pipelines):
        self.path = str(pipelines[self.name])

    def config(self):
        return configure("upscaler", self.name, path=self.path, diffusion_steps=2)

    def test_its_bridge(self):
        assert load(self.config()).bridge(2) == "x4 then antialiased resize to x2"


class TestStableDiffusion(TestLatentDiffusion):
    name = "sd_x4"


@pytest.mark.parametrize("name", ["ldm_sr", "sd_x4"])
def test_noise_is_an_images_own(pipelines, name):
    """In every batch and position, over two passes, whatever the global generator did; another image, other noise."""
    images = coarse_scenes(3, 1, 3, 3)
    upscaler = diffusing(pipelines, name)
    torch.manual_seed(1)
    together = upscaler.upscale(images, 8)
    torch.manual_seed(2)
    torch.testing.assert_close(upscaler.upscale(images.flip(0), 8).flip(0), together, atol=1e-4, rtol=0)
    flat = torch.full((2, 3, 4, 4), 0.5)
    flat[1] += 1e-6
    one, other = upscaler.upscale(flat, 4)
    assert (one - other).abs().max() > 1e-3


def test_sd_x4_reads_its_prompt_and_steps_count(pipelines):
    images = coarse_scenes(1, 3, 4, 4)
    plain, prompted = (diffusing(pipelines, "sd_x4", prompt=text).upscale(images, 4) for text in ("", "shoe"))
    assert (plain - prompted).abs().max() > 1e-4
    more = load(configure("upscaler", "sd_x4", path=str(pipelines["sd_x4"]), diffusion_steps=3)).upscale(images, 4)
    assert (plain - more).abs().max() > 1e-4


def test_another_pipeline_or_an_empty_folder_is_refused(pipelines, tmp_path):
    with pytest.raises(
        UserError, match=r"holds LDMSuperResolutionPipeline, and upscaler=sd_x4 is a StableDiff.*: give"
    ):
        load(configure("upscaler", "sd_x4", path=str(pipelines["ldm_sr"])))
    with pytest.raises(UserError, match=r"is not a model of diffusers \(FileNotFoundError"):
        load(configure("upscaler", "sd_x4", path=str(tmp_path)))
    broken = tmp_path / "broken"
    shutil.copytree(pipelines["ldm_sr"], broken)
    for file in (broken / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="diffusers cannot load"):
        load(configure("upscaler", "ldm_sr", path=str(broken)))
    with pytest.raises(UserError, match="neither a folder nor a hub id: give one, or null for CompVis"):
        load(configure("upscaler", "ldm_sr", path=str(tmp_path / "none")))


def test_a_pipeline_of_another_factor_is_refused(pipelines, tmp_path):
    from diffusers import DiffusionPipeline, VQModel

    pipeline = DiffusionPipeline.from_pretrained(pipelines["ldm_sr"], local_files_only=True)
    two = {
        name: value[:2] if name.endswith(("_types", "block_out_channels")) else value for name, value in DECODER.items()
    }
    pipeline.register_modules(vqvae=VQModel(latent_channels=3, num_vq_embeddings=64, **two))
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="enlarges by 2, not 4: give one by 4"):
        load(configure("upscaler", "ldm_sr", path=str(tmp_path)))


def test_a_hub_model_comes_from_the_cache_at_its_commit(pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = configure("upscaler", "ldm_sr", revision=COMMIT, diffusion_steps=2)
    with pytest.raises(UserError, match=f"not in the cache .* run hf download CompVis/.* --revision {COMMIT}"):
        load(config)
    shutil.copytree(
        pipelines["ldm_sr"], tmp_path / "models--CompVis--ldm-super-resolution-4x-openimages/snapshots" / COMMIT
    )
    images = coarse_scenes(1, 1, 4, 4)
    assert torch.equal(load(config).upscale(images, 4), diffusing(pipelines, "ldm_sr").upscale(images, 4))
    with pytest.raises(UserError, match=r"revision=main does not fix what CompVis.*: give the commit"):
        load(dataclasses.replace(config, revision="main"))


def trial(upscaler, **data):
    small = DataConfig(name="procedural", size=8, n_records=8)
    private = PrivacyConfig(epsilon=4.0, batch_size=16, steps=2)
    return TrialConfig(data=dataclasses.replace(small, **data), public=small, privacy=private, upscaler=upscaler)


def upscale_key(config):
    return chain.keys(trial(config))["upscale"]


def content(config):
    """The part of the key of the stage `upscale` that comes from its configuration."""
    return registry.find("upscaler", config.name).content(config)


def test_a_file_enters_the_key_by_content_and_never_by_path(tmp_path):
    first = saved(compact(seed=0), tmp_path / "a.safetensors")
    same = saved(compact(seed=0), tmp_path / "b.safetensors")
    other = saved(compact(seed=1), tmp_path / "c.safetensors")
    assert upscale_key(first) == upscale_key(same) != upscale_key(other)
    before = upscale_key(first)
    saved(compact(seed=1), tmp_path / "a.safetensors")
    assert before != upscale_key(first) == upscale_key(other)
    assert str(tmp_path) not in str(content(first))


def test_a_folder_enters_the_key_by_content_and_a_hub_model_by_commit(pipelines, tmp_path):
    config = configure("upscaler", "sd_x4", path=str(pipelines["sd_x4"]))
    copy = dataclasses.replace(config, path=str(tmp_path / "copy"))
    shutil.copytree(pipelines["sd_x4"], copy.path)
    assert upscale_key(copy) == upscale_key(config)
    (tmp_path / "copy" / ".cache").write_text("what a download tool keeps")
    assert upscale_key(copy) == upscale_key(config)
    (tmp_path / "copy" / "scheduler" / "scheduler_config.json").write_text("{}")
    assert upscale_key(copy) != upscale_key(config)
    hub = configure("upscaler", "sd_x4", revision=COMMIT)
    assert content(hub)["model"] == {
        "hub": "stabilityai/stable-diffusion-x4-upscaler",
        "revision": COMMIT,
    }
    assert upscale_key(hub) == upscale_key(dataclasses.replace(hub, path="stabilityai/stable-diffusion-x4-upscaler"))
    for changes in ({"revision": COMMIT[::-1]}, {"path": "me/mine"}, {"prompt": "a shoe"}, {"diffusion_steps": 3}):
        assert upscale_key(dataclasses.replace(hub, **changes)) != upscale_key(hub), changes
    assert upscale_key(dataclasses.replace(hub, batch_size=2)) == upscale_key(hub)


def test_published_keys_stay_and_options_enter_where_they_are_read():
    def fields(name, **options):
        return content(configure("upscaler", name, **options))

    published = {"name": "realsr_df2k_x4", "temperature": 1.0}
    assert content(TrialConfig().upscaler) == fields("realsr_df2k_x4") == published
    assert fields("bicubic") == {"name": "bicubic", "temperature": 1.0}
    assert fields("blur_diffusion") == {"name": "blur_diffusion", "diffusion_steps": 20}
    network = {"engine": "torch", "precision": "bfloat16", "tile": 64}
    assert fields("realsr_df2k_x4", **network, batch_size=3, channels_last=True) == {**published, **network}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        # These have no network to run so.
        ({"engine": "torch"}, [*get_args(Filter), "identity", "spectral", "blur_diffusion", "wavelet_detail", "sd_x4"]),
        ({"precision": "bfloat16"}, [*get_args(Filter), "identity", "spectral", "blur_diffusion", "wavelet_detail"]),
        ({"tile": 64}, [*get_args(Filter), "identity", "spectral", "blur_diffusion", "wavelet_detail", "sd_x4"]),
        ({"batch_size": 3}, [*get_args(Filter), "identity", "spectral", "spandrel"]),
        ({"prompt": "x"}, ["bicubic", "ldm_sr"]),
        ({"temperature": 0.5}, ["bicubic", "sd_x4", "realsr_df2k_x4"]),
        # Its low-pass is always the coarse image, or nothing is enlarged.
        ({"low_pass_consistency": True}, ["spectral", "blur_diffusion", "wavelet_detail", "identity"]),
    ],
)
def test_options_that_are_not_read_are_refused(options, names):
    """So that no two keys stand for one result."""
    (option,) = options
    for name in names:
        with pytest.raises(UserError, match=rf"upscaler\.{option} is not read by upscaler={name}: .* reads? it\."):
            configure("upscaler", name, **options)


def warnings_of(chosen):
    return methods.upscaler(chosen).check(chosen)


@pytest.mark.parametrize(
    ("name", "file", "folder", "warns"),
    [
        ("spandrel", "GFPGANv1.4.safetensors", "data/CelebA-HQ", True),
        ("spandrel", "4x-FaceUpSharp.safetensors", "ffhq", True),
        ("spandrel", "4x-FaceUpSharp.safetensors", "shoes", False),
        ("spandrel", "mine.safetensors", "ffhq", True),  # its architecture is GFPGAN's
        ("bicubic", None, "faces", False),
    ],
)
def test_a_face_model_on_faces_is_warned_of(tmp_path, name, file, folder, warns):
    upscaler = configure("upscaler", name) if file is None else saved(FACES, tmp_path / file)
    found = warnings_of(trial(upscaler, name="folder", path=folder))
    assert len(found) == warns
    if warns:
        assert file in found[0]
        assert "find out what it saw" in found[0]


def test_a_plain_network_on_faces_is_not_warned_of(tmp_path):
    config = saved(compact(), tmp_path / "mine.safetensors")
    assert warnings_of(trial(config, name="folder", path="/data/ffhq")) == []


def test_the_warning_reaches_those_who_check(tmp_path):
    from PIL import Image

    folder = tmp_path / "celeba"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for i in range(200):
            Image.new("L", (8, 8), i).save(folder / split / f"{i}.png")
    config = saved(compact(), tmp_path / "codeformer.safetensors")
    warnings = checks.check(trial(config, name="folder", path=str(folder)))
    assert any("model for faces" in warning for warning in warnings)


def test_the_command_lists_every_upscaler(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["wavedp.upscalers"])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "name"
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == set(registry.names("upscaler"))
    assert "Flickr2K" in rows["realesrgan_x4plus"]
    assert rows["realesrgan_x4plus"].endswith("found")
    assert "not stated" in rows["animevideov3_x2"]
    assert f"not found: run hf download {registry.find('upscaler', 'sd_x4').hub_id}" in rows["sd_x4"]


def test_grey_and_colour_pass_a_network_of_one_channel_alike(tmp_path):
    upscaler = load(saved(compact(2, channels=1, strength=0.5), tmp_path / "grey.safetensors"))
    grey = coarse_scenes(2, 1, 7, 7)
    colour = upscaler.upscale(grey.expand(-1, 3, -1, -1), 2)
    torch.testing.assert_close(colour, upscaler.upscale(grey, 2).expand(-1, 3, -1, -1), atol=1e-6, rtol=0)
    assert (colour - F.interpolate(grey, scale_factor=2)).abs().max() > 1e-4
