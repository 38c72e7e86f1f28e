"""`prune` and `unprune`: what they change, what they give back, and what they refuse, on hosts of different kinds."""

import copy

import pytest
import torch
import transformers
from host_cases import CASES, IMAGE, batch, prompt
from host_parts import CLIP
from kinds import BY_NAME, KINDS, answer

from llava.errors import InputError
from llava.integrations.transformers import prune, unprune
from llava.integrations.transformers import pruned as pruned_for_a_block
from llava.integrations.transformers.hosts import known_hosts

each_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)


@each_kind
def test_unprune_gives_back_what_it_was(case):
    model = case.model()
    before, cls = dict(vars(model)), type(model)
    methods = cls.forward, cls.generate
    prune(model, 3)
    assert type(model) is cls
    assert (cls.forward, cls.generate) == methods
    assert prune(model, None) is model
    assert vars(model) == before
    assert unprune(model) is model
    assert vars(model) == before


def test_what_the_instance_had_is_kept(llava):
    case, _ = llava
    model, calls = case.model(), []

    def forward(*args, **kwargs):  # as libraries that place a model on devices wrap it
        calls.append(kwargs)
        return type(model).forward(model, *args, **kwargs)

    model.forward = forward
    expected = answer(prune(case.model(), 3), prompt(case, 1))
    assert torch.equal(answer(prune(model, 3), prompt(case, 1)), expected)
    assert len(calls) == 6
    assert unprune(model).forward is forward


def test_other_models_of_the_class_are_left_alone(llava):
    case, model = llava
    other, inputs = case.model(), prompt(case, 1)
    assert other(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
    assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1] - 13


def test_a_copy_is_a_model_of_its_own(llava):
    case, model = llava
    inputs = prompt(case, 1)
    expected = answer(model, inputs)
    other = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(answer(other, inputs), expected)
    unprune(model)
    assert other(**inputs).logits.shape[1] == inputs["input_ids"].shape[1] - 13


def test_settings_change_between_calls_and_in_one_call(llava):
    case, model = llava
    inputs = prompt(case, 1)
    longer = inputs["input_ids"].shape[1]

    def length(**settings) -> int:
        return longer - model(**inputs, **settings).logits.shape[1]

    assert [length(visual_token_num=n) for n in (1, 8, None, 16, 99, 0.25, 1.0, 1)] == [15, 8, 0, 0, 0, 12, 0, 15]
    assert length(visual_token_num=0.01) == 15
    assert length(pruning_method="none") == 0
    assert length() == 13
    prune(model, 0.5, important_ratio=1.0, pruning_method="fastervlm")
    assert length() == 8
    fastervlm = answer(model, inputs)
    prune(model, 3)
    options = {"visual_token_num": 8, "important_ratio": 1.0}
    assert torch.equal(answer(model, inputs, **options), fastervlm)
    assert torch.equal(answer(model, inputs), answer(prune(case.model(), 3), inputs))


def test_a_block_prunes_and_gives_back(llava):
    case, model = llava
    unprune(model)
    inputs = prompt(case, 1)
    whole = answer(model, inputs)
    with pruned_for_a_block(model, 3) as inside:
        assert inside is model
        three = answer(model, inputs)
        with pruned_for_a_block(model, 8, pruning_method="fastervlm"):
            eight = answer(model, inputs)
        assert torch.equal(answer(model, inputs), three)
        with pytest.raises(RuntimeError), pruned_for_a_block(model, None):
            assert torch.equal(answer(model, inputs), whole)
            raise RuntimeError("what a user's block raises")
        assert torch.equal(answer(model, inputs), three)
    assert torch.equal(answer(model, inputs), whole)
    assert "forward" not in vars(model)
    assert torch.equal(answer(prune(model, 8, pruning_method="fastervlm"), inputs), eight)


@pytest.mark.parametrize("method", ["vispruner", "fastervlm", "divprune", "random"])
def test_methods_that_choose_patches(pruned, method):
    case, model = pruned
    inputs = batch(case, [prompt(case, 1), prompt(case, 2)])
    model = prune(model, 3, pruning_method=method)
    alone = torch.cat([answer(model, prompt(case, seed)) for seed in (1, 2)])
    assert torch.equal(answer(model, inputs), alone)


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"visual_token_num": 0}, "at least 1, got 0"),
        ({"visual_token_num": 1.5}, r"a share in \(0, 1\], got 1.5"),
        ({"visual_token_num": "3"}, "must be an integer, got '3'"),
        ({"visual_token_num": True}, "must be an integer, got True"),
        ({"visual_token_num": 3, "important_ratio": 2}, "important_ratio must be a number in"),
        ({"visual_token_num": 3, "pruning_method": "fastv"}, "fastv drops tokens inside the language model"),
        ({"visual_token_num": 3, "pruning_method": "dart"}, "dart drops tokens inside the language model"),
        ({"visual_token_num": 3, "pruning_method": "pool"}, "pool merges patches"),
        ({"visual_token_num": None, "pruning_method": "blind"}, "blind shows no picture"),
        ({"visual_token_num": 3, "pruning_method": "cdpruner"}, r"cdpruner .* text tower .*\(text_embeds\)"),
        ({"visual_token_num": 3, "budget_per": "picture"}, "budget_per must be crop, image or video, got 'picture'"),
        ({"visual_token_num": 3, "budget_per": "video"}, "budget_per: LlavaForConditionalGeneration takes no videos"),
        ({"visual_token_num": 3, "pruning_method": "nothing"}, "pruning_method must be one of vispruner"),
    ],
)
def test_impossible_settings_are_refused_at_once(llava, settings, reason):
    case, model = llava
    fresh = case.model()
    before = dict(vars(fresh))
    with pytest.raises(ValueError, match=reason):
        prune(fresh, **settings)
    assert vars(fresh) == before
    with pytest.raises(ValueError, match=reason):
        model.generate(**prompt(case, 1), **settings)


CUT = ("aya_vision", "cohere2_vision", "ovis2", "lfm2_vl")  # into crops, with words between them


@pytest.mark.parametrize("name", CUT)
def test_a_budget_per_image_is_refused_where_a_picture_s_crops_are_not_known(name):
    case = BY_NAME[name]
    fresh, model = case.model(), prune(case.model(), 3)
    before = dict(vars(fresh))
    for refused in (
        lambda: prune(fresh, 3, budget_per="image"),
        lambda: prune(model, 3, budget_per="image"),
        lambda: model(**prompt(case, 1), budget_per="image"),
        lambda: answer(model, prompt(case, 1), budget_per="image"),
    ):
        with pytest.raises(InputError, match=f"budget_per: {case.model_class}"):
            refused()
    assert vars(fresh) == before
    assert model(**prompt(case, 1)).logits.shape == model(**prompt(case, 1), budget_per="crop").logits.shape


def test_a_method_that_merges_patches_is_refused(llava, tmp_path):
    case, model = llava
    with pytest.raises(InputError, match="visionzip merges patches"):
        prune(model, 3, pruning_method="visionzip")
    merging = tmp_path / "merging.py"  # which declares nothing: it is known by what it returns
    merging.write_text(
        "from llava.pruning import MergedTokens\n\n\n"
        "def select(views, settings):\n    return MergedTokens(views.features[:, : settings.visual_token_num])\n"
    )
    prune(model, 3, pruning_method=str(merging))
    with pytest.raises(InputError, match=r"merging\.py merges patches"):
        model(**prompt(case, 1))


@each_kind
def test_a_user_s_method_is_a_guest(case, tmp_path):
    """What it writes into its views, which may be the host's own tensors, changes no logit."""
    mine, model, inputs = tmp_path / "mine.py", case.model(), prompt(case, 1)
    keeps = "    return views.keep(torch.tensor([[2, 0]]).repeat(len(views.features), 1))\n"
    bodies = {
        "reads": "",
        "writes": "    for name in ('features', 'projected', 'importance', 'pixels'):\n"
        "        getattr(views, name).fill_(7)\n",
    }
    logits = {}
    for name, body in bodies.items():
        mine.write_text(f"import torch\n\n\ndef select(views, settings):\n{body}{keeps}")
        logits[name] = prune(model, 2, pruning_method=str(mine))(**inputs).logits
    assert torch.equal(logits["writes"], logits["reads"])
    for returned, named in {
        "views.keep(torch.tensor([[-1, 0]]).repeat(len(views.features), 1))": "keeps patch -1 of crop 0",
        "views.keep([[0, 1]])": r"got list \[\[0, 1\]\] \(line 5 of mine.py\)",
        "1 / 0": r"ZeroDivisionError: division by zero \(line 5 of mine.py\)",
        "VisualTokens(views.features[:, :1] + 1, torch.zeros(len(views.features), 1).long())": "changes what it keeps",
    }.items():
        head = "import torch\nfrom llava.pruning import VisualTokens\n\ndef select(views, settings):\n"
        mine.write_text(f"{head}    return {returned}\n")
        with pytest.raises(InputError, match=f"mine.py.*{named}"):
            model(**inputs)


def tiny_llama() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                      num_attention_heads=1)  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def test_an_unknown_model_is_refused_with_the_list():
    model = tiny_llama()
    with pytest.raises(InputError, match=r"^LlamaForCausalLM cannot be pruned; these can: AyaVisionFor.*VipLlavaFor"):
        prune(model, 3)
    assert prune(model, None) is model


def test_a_wrapper_of_peft_says_that_its_base_model_can_be_pruned(llava):
    peft = pytest.importorskip("peft")
    case, expected = llava
    wrapped = peft.get_peft_model(case.model(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    before = dict(vars(wrapped))
    with pytest.raises(InputError, match=r"PeftModel\w* cannot be pruned, but what its get_base_model\(\) gives can"):
        prune(wrapped, 3)
    assert vars(wrapped) == before
    prune(wrapped.get_base_model(), 3)
    assert torch.equal(answer(wrapped, prompt(case, 1)), answer(expected, prompt(case, 1)))  # a new LoRA adds nothing
    unknown = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(InputError, match=r"^LlamaForCausalLM cannot be pruned; these can"):
        prune(unknown, 3)


def test_every_host_has_a_case():
    assert set(known_hosts()) == {case.model_class for case in CASES}


REFUSED_MODELS = {
    "Mllama": "beside the prompt, where they have no tokens",
    "Blip2": "made of all patches by learned queries",
    "Idefics2": "made of all patches by learned queries",
    "Gemma3n": "no attention says which tokens are important",
}


@pytest.mark.parametrize("name", REFUSED_MODELS)
def test_a_model_whose_tokens_are_no_patches_is_refused_with_the_reason(name):
    model = object.__new__(getattr(transformers, f"{name}ForConditionalGeneration"))  # none of it is read
    with pytest.raises(InputError, match=f"^{name}ForConditionalGeneration cannot be pruned: .*{REFUSED_MODELS[name]}"):
        prune(model, 3)


REFUSED_TOWERS = {
    "dinov3_vit": ("default", {}, "what DINOv3ViTAttention makes of its positions"),  # which [CLS] does not have
    "beit": ("default", {"use_relative_position_bias": True}, "what BeitAttention makes of attention_mask"),
    "sam_vision_model": ("full", {}, "no square of patches among the tokens of the vision tower 'sam_vision_model'"),
}


@pytest.mark.parametrize("name", REFUSED_TOWERS)
def test_a_tower_whose_attention_is_not_known_is_refused(name):
    strategy, more, reason = REFUSED_TOWERS[name]
    config = BY_NAME["llava"].config()
    config.vision_config = transformers.AutoConfig.for_model(**{**CLIP, **more, "model_type": name})
    config.vision_feature_select_strategy = strategy
    model = prune(transformers.LlavaForConditionalGeneration(config), 3)
    with pytest.raises(InputError, match=reason):
        model(**prompt(BY_NAME["llava"], 1))


def test_features_with_cls_among_them_are_refused(llava):
    case, model = llava
    with pytest.raises(InputError, match="needs vision_feature_select_strategy 'default' with this tower, not 'full'"):
        model(**prompt(case, 1), vision_feature_select_strategy="full")


def test_other_layers_may_be_read(llava):
    case, model = llava
    inputs = prompt(case, 1)
    by_call = model(**inputs, vision_feature_layer=-1).logits
    model.config.vision_feature_layer = -1
    assert torch.equal(model(**inputs).logits, by_call)
    with pytest.raises(InputError, match="vision_feature_layer -9 is outside the tower's 3 layers"):
        model(**inputs, vision_feature_layer=-9)


def test_pictures_and_placeholders_must_match(llava):
    case, model = llava
    inputs = prompt(case, 1)
    short = {**inputs, "input_ids": inputs["input_ids"][:, :-8], "attention_mask": inputs["attention_mask"][:, :-8]}
    with pytest.raises(
        InputError, match=r"16 visual token\(s\) of 1 picture\(s\) for \d+ placeholder\(s\) with id 100"
    ):
        model.generate(**short)
    two = batch(case, [inputs, inputs])
    two["input_ids"][0, 2], two["input_ids"][1, 1] = 5, IMAGE
    with pytest.raises(InputError, match="spread over two prompts"):
        model(**two)


def test_inputs_that_cannot_be_pruned_are_refused(llava):
    case, model = llava
    inputs = prompt(case, 1)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(InputError, match="needs input_ids"):
        model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    with pytest.raises(InputError, match=r"attention_mask has shape \(1, 3\), but there are 1 prompts of 23 tokens"):
        model(**{**inputs, "attention_mask": inputs["attention_mask"][:, :3]})
    with pytest.raises(InputError, match="logits_to_keep must be an integer"):
        model(**inputs, logits_to_keep=torch.tensor([0]))
    with pytest.raises(InputError, match="assistant_model cannot be used with pruned pictures"):
        model.generate(**inputs, assistant_model=case.model())
    with pytest.raises(InputError, match="mm_encoder_outputs has all visual tokens"):
        model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": None})
