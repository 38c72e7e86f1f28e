"""The pruning settings of a request on their way to the model. Needs no vLLM."""

import re

import pytest
import torch

from llava.errors import InputError
from llava.integrations.vllm.settings import Tower, own_settings, pack, read_budget, unpack
from llava.pruning import METHOD_NAMES, Settings, Views, select
from tests import doors

PATCHES = 20


METHODS = [name for name in METHOD_NAMES if not doors.must_be_refused(name)]


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return Views(
        draw(2, PATCHES, 8),
        importance=draw(2, PATCHES),
        hidden_states=draw(2, 1 + PATCHES, 8),
        keys=draw(2, 1 + PATCHES, 4),
        received=draw(2, PATCHES),
        object_received=draw(2, PATCHES),
        grid=torch.tensor([[4, 5]] * 2),
        pixels=draw(2, 3, 56, 70),
        projected=draw(2, PATCHES, 12),
    )


def test_the_methods_of_patches_and_of_merged_tokens_can_work():
    assert {"vispruner", "none", "divprune", "fastervlm", "random", "visionzip"} <= set(METHODS)
    for method in METHOD_NAMES:
        if method in METHODS:
            assert read_budget({"pruning_method": method}).settings.pruning_method == method
        else:
            with pytest.raises(InputError, match=f"the pruning method {method} cannot work in vLLM: it "):
                read_budget({"pruning_method": method})


@pytest.mark.parametrize("method", METHODS)
def test_what_vllm_cannot_do_is_refused_by_name(method):
    for given in ({"budget_per": "image"}, {"positions": "original"}, {"positions": "after"}):
        asked = {"pruning_method": method, "visual_token_num": 8, **given}
        for of_request, of_server in ((asked, {}), ({}, asked), (given, {"visual_token_num": 8})):
            with pytest.raises(InputError, match=f"^{next(iter(given))}: "):
                read_budget(of_request, of_server)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_as_many_tokens_as_are_counted(method, views):
    for number in (None, *range(1, PATCHES + 3)):
        settings = Settings(number, pruning_method=method)
        assert select(views, settings).tokens.shape[1] == settings.kept(PATCHES)


@pytest.mark.parametrize("ratio", [0, 0.1, 0.3, 0.8, 1 / 3, 1])
@pytest.mark.parametrize("method", METHODS)
def test_settings_come_back_as_they_were(ratio, method):
    for number, seed in ((None, 0), (1, -1), (576, 2**63 - 1)):
        settings = Settings(number, ratio, method, seed)
        assert unpack(pack(settings)) == settings


def test_a_file_of_the_server_comes_back(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def select(views, settings):\n"
        "    return views.keep(views.importance.argsort()[:, : settings.visual_token_num])\n"
    )
    server = {"pruning_method": str(file), "visual_token_num": 4}
    settings = read_budget({"important_ratio": 1}, server).settings
    assert unpack(pack(settings), server) == settings == Settings(4, 1, str(file))
    with pytest.raises(InputError, match="of a request must be one of"):
        read_budget({"pruning_method": str(file)}, {})


def test_a_request_goes_before_the_server():
    server = {"visual_token_num": 64, "important_ratio": 0.25}
    assert read_budget({}, server).settings == Settings(64, 0.25)
    assert read_budget({"visual_token_num": 16}, server).settings == Settings(16, 0.25)
    assert read_budget({}, None).settings == Settings()


@pytest.mark.parametrize(
    ("share", "patches", "number"),
    [(0.25, 64, 16), (0.25, 63, 16), (0.25, 61, 15), (0.25, 10, 3), (0.01, 20, 1), (1.0, 7, 7), (0.5, 5, 3)],
)
def test_a_share_becomes_a_number_of_each_crop(share, patches, number):
    budget = read_budget({"visual_token_num": share, "important_ratio": 0.25})
    assert budget.settings_for(patches) == Settings(number, 0.25)


@pytest.mark.parametrize("share", [0.0, -0.25, 1.5, 16.0, float("nan"), float("inf"), "many", True, [0.5]])
def test_a_wrong_share_is_refused(share):
    with pytest.raises(InputError, match=r"^visual_token_num must be "):
        read_budget({"visual_token_num": share})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"visual_tokens_num": 16}, "mm_processor_kwargs has 'visual_tokens_num': the setting is visual_token_num"),
        ({"pruning_metod": "random"}, "mm_processor_kwargs has 'pruning_metod': the setting is pruning_method"),
        (
            {"images_kwargs": {"visual_token_num": 0.5}},
            "mm_processor_kwargs has visual_token_num inside images_kwargs: it stands beside it",
        ),
    ],
)
def test_a_setting_of_a_host_that_no_one_would_read_is_refused(options, reason):
    with pytest.raises(InputError, match=f"^{re.escape(reason)}$"):
        own_settings(options)


def test_the_options_of_a_hosts_processor_are_its_own():
    options = {"min_pixels": 4, "size": {"longest_edge": 9}, "videos_kwargs": {"fps": 1}, "visual_token_num": 0.5}
    assert own_settings(options) == {"visual_token_num": 0.5}
    assert own_settings(None) == {}


def test_a_tower_of_frames_serves_the_methods_that_choose_patches_by_what_it_gives():
    """Qwen-VL's give no [CLS], no keys, and nothing of other layers, and its tokens have places."""
    frames = Tower(("importance", "grid", "pixels", "projected"), merges=False)
    served = {"divprune", "fastervlm", "holov", "mmr", "none", "random", "scope", "uniform", "vispruner"}
    for method in METHOD_NAMES:
        if method in served:
            assert read_budget({"pruning_method": method}, tower=frames).settings.pruning_method == method
        elif method in ("hiprune", "prunesid", "visionzip", "fastv", "cdpruner", "mmtok", "dart_embeds"):
            with pytest.raises(InputError, match=f"the pruning method {method} cannot work in vLLM: "):
                read_budget({"pruning_method": method}, tower=frames)


TILES = Tower(("importance", "grid", "pixels", "projected"), merges=False, shares_budgets=True)


@pytest.mark.parametrize(("share", "tiles", "number"), [(0.25, 4, 64), (0.3, 3, 58), (0.001, 5, 1), (1.0, 2, 128)])
def test_tiles_of_a_picture_share_a_budget(share, tiles, number):
    budget = read_budget({"visual_token_num": share, "budget_per": "image"}, tower=TILES)
    settings = budget.settings_for(64, tiles)
    assert settings == Settings(number, budget_per="image") == unpack(pack(settings))
    assert settings.kept(64, tiles) == number


def test_who_cannot_choose_of_all_tiles_is_refused(tmp_path):
    (file := tmp_path / "mine.py").write_text(
        "def select(views, settings):\n    assert views.features.shape[1] == 64, 'one tile'\n"
        "    return views.keep(views.importance.argsort()[:, : settings.visual_token_num])\n"
    )
    own = {"pruning_method": str(file), "visual_token_num": 4}
    assert read_budget({}, own, TILES).settings.budget_per == "crop"
    with pytest.raises(InputError, match=r"mine\.py cannot work in vLLM: .*one tile"):
        read_budget({"budget_per": "image"}, own, TILES)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("def select(views, settings):\n    return views.keep_all()", "it gives 64 visual tokens of a crop where 16"),
        ("def select(views, settings):\n    return views.nothing", "has no attribute 'nothing'"),
        ("def select(views, settings):\n    return 5", "must return VisualTokens or MergedTokens"),
        ("def prune_decoder(decoder):\n    pass\nFULL_LAYERS = 2", "inside the language model"),
        ("import nowhere_at_all", "cannot be imported"),
        ("import sys\n\nsys.exit(0)", "SystemExit: 0 (line 3 of bad.py)"),
        ("def select(views, settings):\n    return views.keep([[-1] * 16] * 2)", "(line 2 of bad.py)"),
        (
            "def select(views, settings):\n    return views.keep(views.importance.long())",
            "keeps patch 0 of crop 0 twice",
        ),
    ],
)
def test_a_method_that_cannot_work_is_refused_before_the_model_runs(code, cause, tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(code)
    with pytest.raises(InputError, match=f"{re.escape(str(file))} cannot work in vLLM: .*{re.escape(cause)}"):
        read_budget({}, {"pruning_method": str(file)})
    file.write_text("def select(views, settings):\n    return views.keep(views.importance.argsort()[:, :16])")
    assert read_budget({}, {"pruning_method": str(file)}).settings.pruning_method == str(file)
