"""Every host: which tokens stay, and that a pruned prompt is a shorter prompt and nothing else."""

import dataclasses
import functools

import more_cases
import pytest
import torch
import transformers
from host_cases import CLOSE, IMAGE, OPEN, VIDEO, batch, each_host, prompt
from host_parts import CLIP
from kinds import BY_NAME
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from llava.errors import InputError
from llava.integrations.transformers import prune
from llava.pruning import select_visual_tokens
from llava.pruning.kv_cache import cache_in

GREEDY = {"max_new_tokens": 10, "do_sample": False}
KEEP_ALL = "def select(views, settings):\n    return views.keep_all()\n"


@pytest.fixture
def keep_all(tmp_path):
    """Settings of a method that is given a budget and keeps all, so that everything but the dropping is done."""
    path = tmp_path / "keep_all.py"
    path.write_text(KEEP_ALL, encoding="utf-8")
    return {"visual_token_num": 1, "pruning_method": str(path)}


def answers(model, inputs: dict, **options) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **options})[:, inputs["input_ids"].shape[1] :]


@each_host
def test_keeping_all_changes_nothing(case, keep_all):
    model = case.model()
    one, two = prompt(case, 1), prompt(case, 2, pictures=2)
    logits, answer = model(**one).logits, model.generate(**two, **GREEDY)
    prune(model, 3)
    assert torch.equal(model(**one, **keep_all).logits, logits)
    assert torch.equal(model.generate(**two, **GREEDY, **keep_all), answer)
    for all_of_them in (case.tokens, 1.0, None):
        assert torch.equal(model(**one, visual_token_num=all_of_them).logits, logits)
        assert torch.equal(model.generate(**two, **GREEDY, visual_token_num=all_of_them), answer)


class Recorder:
    """What attention the layers of a tower compute, and what the language model is given, while a model runs."""

    def __init__(self, case, model) -> None:
        self.case, self.model = case, model
        self.maps: dict[torch.nn.Module, list[torch.Tensor]] = {}
        self.given: dict = {}

    def attend(self, module, query, key, value, attention_mask, scaling, **kwargs):
        """Attention by its formula, noted."""
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            is_seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            scores = scores.masked_fill(~is_seen, -torch.inf)
        weights = scores.softmax(dim=-1).nan_to_num()
        self.maps.setdefault(module, []).append(weights)
        return (weights @ value).transpose(1, 2), weights

    def note(self, module, dropout, args) -> None:
        """What goes into the dropout of an attention: the map."""
        self.maps.setdefault(module, []).append(args[0])

    def run(self, inputs: dict) -> None:
        AttentionInterface.register("recorded", self.attend)
        AttentionMaskInterface.register("recorded", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        tower, language_model = (self.model.get_submodule(n) for n in (self.case.tower, self.case.language_model))
        before = tower.config._attn_implementation
        tower.set_attn_implementation("recorded")
        of_timm = [module for module in tower.modules() if hasattr(module, "fused_attn")]  # who has kernels of its own
        for module in of_timm:
            module.fused_attn = False
            module.attn_drop.register_forward_pre_hook(functools.partial(self.note, module))
        handle = language_model.register_forward_pre_hook(
            lambda module, args, kwargs: self.given.update(kwargs), with_kwargs=True
        )
        self.model(**inputs)
        handle.remove()
        tower.set_attn_implementation(before)

    def importance(self) -> torch.Tensor:
        """(crops, tokens), from the attention that the layer really computed."""
        attention = [m for m in self.model.get_submodule(self.case.tower).modules() if m in self.maps][self.case.layer]
        maps, crops = self.maps[attention], self.case.crops
        if self.case.grid is not None:  # without padding, which comes last
            number = self.case.grid[0] * self.case.grid[1]
            maps = [own[..., :number, :number] for own in maps]
        crops = maps[0].shape[0] if self.case.merged != "in a row" else crops
        if self.case.has_cls:
            of_cls, patches = (-1, slice(-1)) if self.case.name == "llama4" else (0, slice(1, None))
            of_patches = maps[0].mean(dim=1)[:, of_cls, patches]
        else:
            of_patches = torch.cat([own.mean(dim=1).sum(dim=1).flatten() for own in maps]).view(crops, -1)
        if self.case.merged == "in squares":
            rows, columns = self.case.grid or (int(of_patches.shape[1] ** 0.5),) * 2
            side = self.case.side
            return of_patches.view(crops, rows // side, side, columns // side, side).mean(dim=(2, 4)).flatten(1)
        if self.case.merged == "in a row":
            of_patches = of_patches.view(crops, -1, 4).mean(dim=2)
        return self.in_raster_order(of_patches)

    def in_raster_order(self, importance: torch.Tensor) -> torch.Tensor:
        """Qwen2.5-VL's tower has the tokens of a window of 2 x 2 next to each other."""
        if not self.case.name.startswith("qwen2_5"):
            return importance
        _, height, width = self.given["grid"]
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        window = (rows // 2 * 10 + columns // 2).flatten()
        return importance[:, window.argsort(stable=True).argsort()]


def reference_logits(case, model, inputs: dict, number: int, ratio: float, original: bool = False) -> torch.Tensor:
    """Logits of a prompt with one picture, all of whose tokens but `number` of each crop are taken out by hand.

    `original` is whether the others stay at their positions, as they do with M-RoPE anyway.
    """
    recorder = Recorder(case, model)
    grids = [inputs[name][0].tolist() for name in ("image_grid_thw", "video_grid_thw") if name in inputs]
    recorder.run(inputs)
    given = {**recorder.given, "grid": grids[0] if grids else None}
    recorder.given = given
    embeds = given["inputs_embeds"]
    is_visual = (inputs["input_ids"][0] == IMAGE) | (inputs["input_ids"][0] == VIDEO)
    columns = is_visual.nonzero().flatten()[case.places()]
    features = tower_features(case, model, inputs) if case.merged == "not" else embeds[0][columns]
    kept = select_visual_tokens(features, recorder.importance(), number, ratio)
    keep = torch.ones_like(is_visual)
    keep[columns] = False
    keep[columns.gather(1, kept)] = True

    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if not case.has_axes:
        first = 0 if positions is None else int(positions.flatten()[0])
        positions = first + torch.arange(len(keep))[None]
    own = positions[..., keep] if case.has_axes or original else positions[:, : int(keep.sum())]
    shorter = {
        "inputs_embeds": embeds[:, keep],
        "position_ids": own,
        "attention_mask": without(mask, keep),
    }
    if given.get("per_layer_inputs") is not None:
        shorter["per_layer_inputs"] = given["per_layer_inputs"][:, keep]
    if given.get("deepstack_visual_embeds") is not None:
        shorter["visual_pos_masks"] = is_visual[keep][None]
        shorter["deepstack_visual_embeds"] = [layer[keep[is_visual]] for layer in given["deepstack_visual_embeds"]]
    hidden_states = model.get_submodule(case.language_model)(**shorter).last_hidden_state
    return model.get_output_embeddings()(hidden_states)


def without(mask, keep: torch.BoolTensor):
    """The mask of the layers, or of each kind of layer, for the tokens that are kept; None if it is of padding."""
    if isinstance(mask, dict):
        return {name: without(own, keep) for name, own in mask.items()}
    return mask[..., keep, :][..., keep] if mask is not None and mask.ndim == 4 else None


def tower_features(case, model, inputs: dict) -> torch.Tensor:
    """(crops, patches, channels) of the layers that the host reads."""
    pixels = next(value for name, value in inputs.items() if name.startswith("pixel_values"))
    pixels = pixels.flatten(0, pixels.ndim - 4)[: case.crops]
    output = model.get_submodule(case.tower)(pixels, output_hidden_states=True)
    if case.reads:
        return output[case.reads]
    layers = getattr(model.config, "vision_feature_layer", None)
    layers = model.config.vision_feature_layers if layers is None else layers
    layers = [layers] if isinstance(layers, int) else layers
    return torch.cat([output.hidden_states[layer][:, int(case.has_cls) :] for layer in layers], dim=-1)


@each_host
@torch.no_grad()
def test_a_pruned_prompt_is_one_with_the_dropped_tokens_taken_out(case):
    check_logits(case)


def check_logits(case) -> None:
    model = case.model()
    for seed, ratio in ((1, 0.5), (2, 1.0), (3, 1.0)):
        inputs = prompt(case, seed)
        expected = reference_logits(case, model, inputs, 3, ratio)
        assert expected.shape[1] == inputs["input_ids"].shape[1] - case.crops * (case.tokens - 3)
        logits = prune(model, 3, ratio)(**inputs).logits
        prune(model, None)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        kept = reference_logits(case, model, inputs, 3, ratio, original=True)
        logits = prune(model, 3, ratio, positions="original")(**inputs).logits
        prune(model, None)
        torch.testing.assert_close(logits, kept, rtol=1e-4, atol=1e-4)
        assert torch.equal(kept, expected) == case.has_axes


TOWERS = {"dinov2": "default", "mlcd_vision_model": "default", "vit": "default", "aimv2_vision_model": "full"}


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_llava_may_have_any_tower_of_layers(name):
    """With [CLS] or without, with rotary positions (MLCD) or without."""

    def config():
        made = llava.config()
        made.vision_config = transformers.AutoConfig.for_model(**{**CLIP, "model_type": name})
        made.vision_feature_select_strategy = TOWERS[name]
        return made

    llava = BY_NAME["llava"]
    tower = transformers.AutoModel.from_config(config().vision_config)
    if not any(module.endswith("q_proj") for module, _ in tower.named_modules()):
        pytest.skip("in this release of transformers its attention is of another kind")
    case = dataclasses.replace(llava, config=config, has_cls=TOWERS[name] == "default")
    check_logits(case)


@torch.no_grad()
def test_paligemma_s_prefix_attends_to_itself():
    case = dataclasses.replace(BY_NAME["paligemma"], name="paligemma prefix", kinds="token_type_ids")
    check_logits(case)
    model, inputs = prune(case.model(), 3), prompt(case, 1)
    causal = {name: value for name, value in inputs.items() if name != case.kinds}
    assert not torch.allclose(model(**inputs).logits[:, 3], model(**causal).logits[:, 3])
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2, text=9)]
    alone = torch.cat([answers(model, one) for one in prompts])
    assert torch.equal(answers(model, batch(case, prompts)), alone)


@torch.no_grad()
def test_ovis_s_words_around_a_picture_are_of_its_visual_vocabulary():
    words = functools.partial(more_cases.ovis2, (OPEN, CLOSE, 112, 113, 114))
    case, others = dataclasses.replace(BY_NAME["ovis2"], config=words), BY_NAME["ovis2"].model()
    check_logits(case)
    model, inputs = prune(case.model(), 3), prompt(case, 1)
    assert not torch.allclose(model(**inputs).logits[:, 3:], prune(others, 3)(**inputs).logits[:, 3:])
    text = prompt(case, 1, pictures=0)  # where there is none, they are words
    text["input_ids"][0, 1] = OPEN
    assert torch.equal(model(**text).logits, others(**text).logits)


def test_images_and_videos_with_the_same_placeholders_are_refused_together():
    image, video = prompt(BY_NAME["glm4v"], 1), prompt(BY_NAME["glm4v video"], 2)
    ids = torch.cat([image["input_ids"], video["input_ids"]], dim=1)
    both = {**video, **image, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(InputError, match="Glm4vForConditionalGeneration is pruned for images or for videos"):
        prune(BY_NAME["glm4v"].model(), 3)(**both)


@each_host
@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_a_batch_is_answered_as_its_prompts_are_alone(case, positions):
    model = prune(case.model(), 3, positions=positions)
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2), prompt(case, 3, pictures=0), prompt(case, 4, text=9)]
    prompts.sort(key=lambda p: "pixel_values" not in " ".join(p))  # the one without a picture last
    alone = torch.cat([answers(model, one) for one in prompts])
    assert torch.equal(answers(model, batch(case, prompts)), alone)


@each_host
@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_decoding_with_a_cache_equals_decoding_without(case, positions):
    model = prune(case.model(), 3, positions=positions)
    inputs = prompt(case, 2, pictures=2)
    options = {"output_logits": True, "return_dict_in_generate": True}
    cached = model.generate(**inputs, **GREEDY, **options)
    without = model.generate(**inputs, **GREEDY, **options, use_cache=False)
    assert torch.equal(cached.sequences, without.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(without.logits), rtol=1e-4, atol=1e-4)


@each_host
def test_a_prompt_whose_positions_have_gaps_is_one_sequence_to_flash_attention(case):
    """Which transformers would take for several; with M-RoPE it has positions of its own for that."""
    model, given = prune(case.model(), 3, positions="original"), []

    def attend(module, query, key, *args, **kwargs):
        if query.shape[2] > 1:
            sequences = [kwargs.get(f"cu_seq_lens_{of}") for of in "qk"]
            given.append(([query.shape[2], key.shape[2]], [s if s is None else s.tolist() for s in sequences]))
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    AttentionInterface.register("noted", attend)
    AttentionMaskInterface.register("noted", sdpa_mask)
    model.get_submodule(case.language_model).set_attn_implementation("noted")
    inputs = prompt(case, 2, pictures=2)
    answers(model, inputs, max_new_tokens=2)
    cached = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, do_sample=False)
    attending = [layer for layer in cache_in(cached).layers if not type(layer).__name__.startswith("Linear")]
    assert len(given) == 2 * len(attending)  # the others keep a state
    for lengths, sequences in given:
        assert sequences == ([None, None] if case.has_axes else [[0, length] for length in lengths])


@each_host
def test_a_batch_trains(case):
    model = prune(case.model(), 3).train()
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    gradients = [p.grad for p in model.get_submodule(case.tower).parameters() if p.grad is not None]
    assert loss.isfinite()
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


@each_host
def test_half_precision_runs(case):
    model = prune(case.model().bfloat16(), 3)
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    halves = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    assert answers(model, halves).shape == (2, 10)
