"""transformers' generation options where every prompt has one text for an answer: what is taken, and what is refused.

`generate` of the model itself takes them all, and gives what transformers' does.
"""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llava.errors import InputError, list_some
from llava.model.generation_defaults import all_options, spell_out

# How one text is decoded, and when it ends.
_TAKEN = frozenset(
    """do_sample num_beams early_stopping temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff
    repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids sequence_bias suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id renormalize_logits
    remove_invalid_values watermarking_config logits_processor prefix_allowed_tokens_fn
    max_new_tokens min_new_tokens max_time stop_strings tokenizer stopping_criteria
    bos_token_id eos_token_id pad_token_id compile_config disable_compile""".split()  # noqa: SIM905
)
_SEVERAL = "an answer is one text; `generate` of the model gives several"
_TENSORS = "an answer is a text; `generate` of the model gives tensors"
_OWN_CACHE = "the KV cache is kept here; `generate` of the model takes it"
_PROMPT = "it needs the prompt's ids, and pictures have none"
_ASSISTED = "a prompt with pictures has no ids that another model could go on from"
# Option -> the value that changes nothing, if there is one, and why any other is refused.
_REFUSED = {
    "num_return_sequences": (1, _SEVERAL),
    "num_beam_groups": (1, "transformers has no such beams any more"),
    "diversity_penalty": (0, "transformers has no groups of beams any more"),
    "return_dict_in_generate": (False, _TENSORS),
    "output_scores": (False, _TENSORS),
    "output_logits": (False, _TENSORS),
    "output_attentions": (False, _TENSORS),
    "output_hidden_states": (False, _TENSORS),
    "use_cache": (True, _OWN_CACHE),
    "past_key_values": (None, _OWN_CACHE),
    "cache": (None, _OWN_CACHE),
    "cache_implementation": (None, _OWN_CACHE),
    "max_length": (None, "with pictures the prompt has no length in ids: see max_new_tokens"),
    "min_length": (0, "with pictures the prompt has no length in ids: see min_new_tokens"),
    "streamer": (None, "`stream` gives an answer in pieces"),
    "encoder_repetition_penalty": (1, _PROMPT),
    "encoder_no_repeat_ngram_size": (0, _PROMPT),
    "guidance_scale": (1, _PROMPT),
    "negative_prompt_ids": (None, _PROMPT),
    "negative_prompt_attention_mask": (None, _PROMPT),
    "token_healing": (False, _PROMPT),
    "assistant_model": (None, _ASSISTED),
    "prompt_lookup_num_tokens": (None, _ASSISTED),
    "assistant_early_exit": (None, _ASSISTED),
    "penalty_alpha": (0, "transformers has no contrastive search any more"),
    "dola_layers": (None, "transformers has no DoLa any more"),
    "constraints": (None, "transformers has no constrained beams any more"),
    "force_words_ids": (None, "transformers has no constrained beams any more"),
    "prefill_chunk_size": (None, _PROMPT),
    "custom_generate": (None, "answers are decoded by transformers' own `generate`"),
}


def one_text_options(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: dict) -> dict:
    """The generation options of a call that gives each prompt one text.

    Args:
        model: whose generation config (`generation_config.json`) holds where the call says nothing.
        tokenizer: the model's, for `stop_strings`.
        options: transformers' generation options; those of a `generation_config` among them count as given one by one.

    Returns: the options of the call, and the beams that the model's generation config has.
    Raises InputError, naming the option, for one that would change the number or the kind of what comes back, that has
    no effect where a prompt has pictures, or that is not known.
    """
    given = spell_out(options)
    every = all_options(model, given)
    for name, (nothing, why) in _REFUSED.items():
        if (value := every.get(name)) is not None and value is not nothing and value != nothing:
            place = "" if name in given else " of the checkpoint's generation config"
            shown = f" {value!r}" if isinstance(value, int | float | str) else ""
            raise InputError(f"{name}{shown}{place} is not taken: {why}")
    if unknown := given.keys() - _TAKEN - _REFUSED.keys():
        raise InputError(f"{list_some(unknown)}: no generation option that is taken here")
    if every.get("num_beams") is not None:
        given["num_beams"] = every["num_beams"]
    if every.get("stop_strings") is not None:
        given.setdefault("tokenizer", tokenizer)
    return given
