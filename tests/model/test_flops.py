"""What the arithmetic says of a KV cache is what the model's cache has; the bench's tests count its FLOPs."""

import pytest

from llava.model.flops import Decoder, tokens_later
from llava.pruning import Settings
from llava.pruning.kv_cache import cache_in
from tests.conftest import IMAGE, inputs_of, picture


@pytest.mark.parametrize("budget", [None, 16])
@pytest.mark.parametrize("method", ["vispruner", "fastv", "dart", "pool", "blind"])
@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "qwen")])
def test_the_cache_of_a_prompt_is_the_model_s(loaded, version, family, method, budget):
    model, pruning = loaded(version, family)[1], Settings(budget, pruning_method=method)
    ids, sees = inputs_of(loaded(version, family), [f"{IMAGE}\nWhat is it?"], [picture()])
    prompts = model.embed_prompts(ids, None, None, sees["images"], sees["image_sizes"], "left", pruning)
    done = model.generate(ids, **sees, pruning=pruning, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    layers = cache_in(done).layers
    tokens, visual = prompts.longest, prompts.num_visual_tokens[0]
    later, full_layers = tokens_later(pruning, tokens, visual, model.get_vision_tower().num_patches)
    assert [layer.keys.shape[2] for layer in layers] == [tokens] * full_layers + [later] * (len(layers) - full_layers)
    assert Decoder.from_config(model.config).cache_bytes(tokens, later, full_layers, model.dtype.itemsize) == sum(
        layer.keys.nbytes + layer.values.nbytes for layer in layers
    )
