"""Overrides: any spelling that means one thing is taken, and what nothing would read is refused in one sentence."""

import pytest

from sweeps.overrides import normalised, refuse_unread
from sweeps.plan import spread
from sweeps.study import as_typed
from wavedp.config import TrialConfig, from_dict
from wavedp.errors import UserError


def trial(**values):
    return from_dict(TrialConfig, values)


def test_any_spelling_that_means_one_thing_is_taken():
    typed = ["sweep=eps_grid", "sweep.grid.tokenizer=[scalar]", "+sweep.grid.epsilon=[1]", "privacy.steps=3"]
    found = ["+sweep=eps_grid", "++sweep.grid.tokenizer=[scalar]", "++sweep.grid.epsilon=[1]", "++privacy.steps=3"]
    assert normalised(typed) == found
    assert normalised(["+upscaler=bicubic", "epsilon=3", "seed=1"]) == [
        "upscaler=bicubic", "++privacy.epsilon=3", "++seed=1",
    ]  # fmt: skip
    flags = ["~sweep.grid.upscaler", "--cfg", "job", "--config-dir", "my=conf"]
    assert normalised(flags) == flags
    assert normalised(["public=procedural"]) == ["data@public=procedural"]
    assert normalised(["data@public=null"]) == ["++public=null"]
    assert normalised(["privacy={epsilon: 2}"]) == ["++privacy={epsilon: 2}"]
    for ids in ("epsilon=1-*,seed=0", "[epsilon=1-*, seed=0]", '["epsilon=1-*",seed=0]'):
        assert normalised([f"only={ids}"]) == ['++only=["epsilon=1-*","seed=0"]']
    assert normalised(["only=null"]) == ["++only=null"]


def test_a_name_that_looks_like_a_number_stays_as_it_was_typed():
    assert normalised(["study=2024", "data.path=2024", "study=a"]) == [
        "++study='2024'",
        "++data.path='2024'",
        "++study=a",
    ]


def test_a_method_without_a_yaml_has_no_value_of_another_methods_file():
    spelled = ["~generator", "++generator.name=lab.mine:Mine"]
    assert normalised(["generator=lab.mine:Mine"]) == normalised(["generator.name=lab.mine:Mine"]) == spelled
    assert [as_typed(text) for text in spelled] == ["", "generator.name=lab.mine:Mine"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("-m", "one command runs one"),
        ("--multirun", "one command runs one"),
        ("+sweep=smoke,tricks", "takes one sweep"),
        ("seed=1,2", r"write sweep.seeds=\[1,2\]"),
        ("sampling.seed=1,2", r"write sweep.sampling_seeds=\[1,2\]"),
        ("privacy.epsilon=1,2", r"write sweep.grid.epsilon=\[1,2\]"),
        ("sweep.grid.epsilon=1,2", r"write sweep.grid.epsilon=\[1,2\]"),
        ("level=range(0,3)", r"write sweep.grid.level=\["),
        ("hydra.run.dir=x", "Hydra's own"),
        ("hydra/launcher=basic", "Hydra's own"),
        ("~privacy.epsilon", "takes away a setting that a study needs"),
        ("~privacy", "takes away a setting that a study needs"),
        ("~sweep.name", "takes away a setting that a study needs"),
        ("privacy=null", "privacy=null chooses no option"),
        ("data.path=/a (1)", "can't be read"),
        ("epsilon", "can't be read"),
        ("=3", "can't be read"),
    ],
)
def test_what_hydra_would_take_otherwise_is_refused(override, words):
    with pytest.raises(UserError, match=words):
        normalised([override])


def test_a_range_of_an_axis_is_all_its_numbers():
    assert normalised(["sweep.seeds=range(3)", "sweep.grid.level=range(1,4,2)"]) == [
        "++sweep.seeds='range(3)'",
        "++sweep.grid.level='range(1,4,2)'",
    ]
    assert spread("range(3)") == [0, 1, 2]
    assert spread("range(1,4,2)") == [1, 3]
    assert spread(["range"]) == ["range"]
    for wrong in ("range(0,1,0.1)", "range(1,2,0)", "range()"):
        with pytest.raises(UserError, match="is no range of whole numbers"):
            spread(wrong)


def test_a_group_is_chosen_once():
    with pytest.raises(UserError, match="upscaler=a and upscaler=b choose twice"):
        normalised(["upscaler=a", "upscaler=b"])
    assert normalised(["seed=1", "seed=2"]) == ["++seed=1", "++seed=2"]  # of two values the last holds


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "generator.width=128",
            "generator.width=128 is not read by generator=blur_diffusion: spectral_ar, .*read it",
        ),
        ("generator.widht=128", "it reads captions, condition_dropout"),
        ("tokenizer.bins=8", "tokenizer=scalar is not read by generator=blur_diffusion .*: use generator=spectral_ar"),
        ("tokenizer=raster", "tokenizer=raster is not read by generator=blur_diffusion"),
        ("privacy.mean_share=0.1", "privacy.mean_share=0.1 is not read by .*: use generator=spectral_ar"),
        ("privacy.adam_floor=0.1", "is read only with privacy.optimizer=adam_bc"),
        ("privacy.lora_rank=4", "is read only with privacy.trained=lora"),
        ("sampling.temperature=0.9", "sampling.temperature=0.9 is not read by"),
        ("upscaler.detail_adversarial=0.1", "is read only with upscaler.detail=adversarial"),
        ("upscaler.engine=torch", "upscaler.engine=torch is not read by upscaler=wavelet_detail: realesrgan_x4plus"),
        ("metrics.downstream_steps=9", "is read only with metrics.downstream=cnn"),
    ],
)
def test_what_no_trial_reads_is_refused_with_what_would(override, words):
    upscaler = {"name": "wavelet_detail", "detail": "regression"}
    chosen = trial(generator="blur_diffusion", upscaler=upscaler, metrics={"downstream": "light"})
    with pytest.raises(UserError, match=words):
        refuse_unread([override], [chosen])


def test_one_trial_that_reads_it_is_enough():
    trials = [trial(generator="blur_diffusion"), trial(), trial(privacy={"optimizer": "adam_bc"})]
    read = ["generator.width=64", "tokenizer=raster", "diffusion.channels=32", "blur=quartic", "privacy.adam_floor=0.1"]
    refuse_unread(["+sweep=eps_grid", *read, "sampling.temperature=0.9", "sampling.diffusion_steps=9"], trials)
    everybody = [
        "privacy.steps=3",
        "++privacy.microbatch_size=8",
        "sampling.n=9",
        "metrics.kid=false",
        "level=1",
        "seed=2",
    ]
    refuse_unread([*everybody, "blur=none", "data.size=28", "study=x"], trials[1:2])
