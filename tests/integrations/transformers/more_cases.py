"""Hosts that are made of parts which `host_cases` has: the fields of its cases.

A case whose class this release of transformers lacks is left out.
"""

import functools
import inspect

import torch
import transformers
from host_parts import CLOSE, IMAGE, LLAMA, MROPE, OPEN, QWEN2, QWEN_TOKENS, SIGLIP, TEXT, VIDEO, Sample, normal

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
          "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
SLIDING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
QWEN_TOWER = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 14, "num_position_embeddings": 16}  # fmt: skip
PARTIAL = {"rope_parameters": {**MROPE["rope_parameters"], "partial_rotary_factor": 1.0}}
GLM_EXPERTS = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}


def qwen3_vl_moe():
    tower = {**QWEN_TOWER, "deepstack_visual_indexes": [0, 1]}
    return transformers.Qwen3VLMoeConfig(vision_config=tower, text_config={**TEXT, **MROPE, **EXPERTS}, **QWEN_TOKENS)


def qwen3_5(name: str):
    more = {**EXPERTS, "shared_expert_intermediate_size": 32} if name == "Qwen3_5Moe" else {}
    text = {**TEXT, **PARTIAL, **LINEAR, **more}
    return getattr(transformers, f"{name}Config")(vision_config=QWEN_TOWER, text_config=text, **QWEN_TOKENS)


def glm(name: str):
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
             "patch_size": 14, "image_size": 56}  # fmt: skip
    text = {**TEXT, **PARTIAL, **(GLM_EXPERTS if name == "Glm4vMoe" else {})}
    if name == "Glm46V":
        tower, text = {**tower, "model_type": "glm4v_vision"}, {**text, "model_type": "glm4v_text"}
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "image_start_token_id": OPEN,
        "image_end_token_id": CLOSE,
    }
    return getattr(transformers, f"{name}Config")(vision_config=tower, text_config=text, **tokens)


def patches(generator) -> Sample:
    """6 x 8 patches, or 8 x 6, as Qwen's processors give them: 12 tokens."""
    height, width = (6, 8) if torch.rand((), generator=generator) < 0.5 else (8, 6)
    pixels = normal(generator, height * width, 3 * 2 * 14 * 14)
    grid = torch.tensor([[1, height, width]])
    return Sample({"pixel_values": pixels, "image_grid_thw": grid}, ([OPEN, *[IMAGE] * 12, CLOSE],))


def frames(token: int, apart: bool = True):
    """Two time steps of 6 x 8 patches, each written apart or both in a row."""

    def video(generator) -> Sample:
        pixels = normal(generator, 2 * 48, 3 * 2 * 14 * 14)
        inputs = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[2, 6, 8]])}
        steps = [20, OPEN, *[token] * 12, CLOSE, 21, OPEN, *[token] * 12, CLOSE]
        return Sample(inputs, (steps if apart else [OPEN, *[token] * 24, CLOSE],))

    return video


PIXTRAL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
           "image_size": 112, "patch_size": 14, "model_type": "pixtral"}  # fmt: skip
BREAK = 104


def mistral3():
    text = {**TEXT, "model_type": "mistral", "sliding_window": None}
    return transformers.Mistral3Config(vision_config=PIXTRAL, text_config=text, image_token_index=IMAGE)


def pixtral():
    more = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    return transformers.LlavaConfig(vision_config=PIXTRAL, text_config=LLAMA, image_token_index=IMAGE, **more)


def of_any_size(merged: int):
    """6 x 4 patches of 14 pixels, padded to 112 x 84, with a break behind each row of tokens."""

    def picture(generator) -> Sample:
        pixels = normal(generator, 1, 3, 112, 84)
        pixels[:, :, 84:] = pixels[:, :, :, 56:] = 0
        row = [*[IMAGE] * (4 // merged), BREAK]
        inputs = {"pixel_values": pixels, "image_sizes": torch.tensor([[84, 56]])}
        return Sample(inputs, ([*(row * (6 // merged))[:-1], CLOSE],))

    return picture


def paligemma():
    text = {**TEXT, "model_type": "gemma", "use_bidirectional_attention": False}
    more = {"projection_dim": 32, "hidden_size": 32, "image_token_index": IMAGE}
    return transformers.PaliGemmaConfig(vision_config=SIGLIP, text_config=text, **more)


def cohere(name: str):
    text = {**TEXT, **SLIDING, "model_type": "cohere2"}
    more = {"alignment_intermediate_size": 64}
    token = {"image_token_index" if name == "AyaVision" else "image_token_id": IMAGE}
    vision = {**SIGLIP, "image_size": 112}
    return getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, **token, **more)


def deepseek():
    return transformers.DeepseekVLConfig(vision_config=SIGLIP, text_config=LLAMA, image_token_id=IMAGE)


def deepseek_hybrid():
    second = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 4,
              "output_channels": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32}  # fmt: skip
    given = {"high_res_vision_config": second, "vision_config": SIGLIP, "text_config": LLAMA, "image_token_id": IMAGE}
    return transformers.DeepseekVLHybridConfig(**given)


def two_crops(generator) -> Sample:
    pixels = {"pixel_values": normal(generator, 1, 3, 56, 56), "high_res_pixel_values": normal(generator, 1, 3, 64, 64)}
    return Sample(pixels, ([IMAGE] * 16,))


def ovis2(words: tuple[int, ...] = (110, 111, 112, 113, 114)):
    """`words` are those that the model has of its visual vocabulary where there are pictures."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 112, "patch_size": 14, "vocab_size": 40, "hidden_stride": 2}  # fmt: skip
    return transformers.Ovis2Config(vision_config=vision, text_config=QWEN2, image_token_id=IMAGE, vocab_size=128,
                                    hidden_size=32, visual_indicator_token_ids=list(words))  # fmt: skip


def llama4():
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 112, "patch_size": 14, "projector_input_dim": 32, "projector_output_dim": 32,
              "vision_output_dim": 32}  # fmt: skip
    text = {**TEXT, "intermediate_size_mlp": 64, "num_local_experts": 2, "no_rope_layers": [1, 0],
            "attention_chunk_size": 64}  # fmt: skip
    return transformers.Llama4Config(vision_config=vision, text_config=text, image_token_index=IMAGE)


def crop(side: int, tokens: int):
    """A square crop, whose tokens stand between two words."""

    def picture(generator) -> Sample:
        return Sample({"pixel_values": normal(generator, 1, 3, side, side)}, ([OPEN, *[IMAGE] * tokens, CLOSE],))

    return picture


def lfm2():
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "patch_size": 14, "num_patches": 16, "vision_use_head": False}  # fmt: skip
    text = {**TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention"]}
    more = {"downsample_factor": 2, "projector_hidden_size": 32, "image_token_id": IMAGE}
    return transformers.Lfm2VlConfig(vision_config=vision, text_config=text, **more)


def lfm2_picture(generator) -> Sample:
    """4 x 6 patches, padded to 32."""
    pixels = normal(generator, 1, 32, 3 * 14 * 14)
    mask = (torch.arange(32) < 24).long()[None]
    inputs = {"pixel_values": pixels, "spatial_shapes": torch.tensor([[4, 6]]), "pixel_attention_mask": mask}
    return Sample(inputs, ([OPEN, *[IMAGE] * 6, CLOSE],))


def gemma4(words: int, bidirectional: str | None):
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "head_dim": 16, "patch_size": 4, "position_embedding_size": 64,
              "pooling_kernel_size": 2}  # fmt: skip
    text = {**TEXT, **SLIDING, "hidden_size_per_layer_input": words, "vocab_size_per_layer_input": 128,
            "global_head_dim": 16, "use_bidirectional_attention": bidirectional}  # fmt: skip
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": 109}
    return transformers.Gemma4Config(vision_config=vision, text_config=text, audio_config=None, **tokens)


HAS_NUMBERS = "num_frames_per_video" in inspect.getsource(transformers.Gemma4ForConditionalGeneration.forward)


def positioned(pixels: str, positions: str, number: int, token: int):
    """Pictures of 4 x 6 patches (height, width), padded to 32: 6 tokens each, which are written apart."""

    def picture(generator) -> Sample:
        y, x = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
        places = torch.full((number, 32, 2), -1)
        places[:, :24] = torch.stack([x.flatten(), y.flatten()], dim=-1)
        inputs = {pixels: normal(generator, number, 32, 48), positions: places}
        if token == VIDEO and HAS_NUMBERS:
            inputs["num_frames_per_video"] = torch.tensor([number])
        elif token == VIDEO:
            inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
        return Sample(inputs, ([OPEN, *[token] * 6, CLOSE] * number,))

    return picture


def perception_lm():
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56, "patch_size": 14, "ref_feat_shape": [4, 4],
             "attn_pool_num_heads": 2, "global_pool": ""}  # fmt: skip
    tower = {"model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "model_args": sizes}
    more = {"image_token_id": IMAGE, "video_token_id": VIDEO, "projector_pooling_ratio": 2}
    return transformers.PerceptionLMConfig(vision_config={**tower, "do_pooling": False}, text_config=LLAMA, **more)


def tiles(name: str, token: int):
    """Three of 4 x 4 patches, whose tokens follow one another."""

    def picture(generator) -> Sample:
        return Sample({name: normal(generator, 1, 3, 3, 56, 56)}, ([token] * 12,))

    return picture


def fast_vlm():
    sizes = {"inference_mode": True, "embed_dims": [32, 32, 32, 32, 32], "layers": [1, 1, 1, 1, 2]}
    tower = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg",
             "hidden_size": 64, "model_args": sizes}  # fmt: skip
    return transformers.FastVlmConfig(vision_config=tower, text_config=QWEN2, image_token_id=IMAGE)


QWEN = {"tower": "model.visual", "merged": "in a row", "has_axes": True, "kinds": "mm_token_type_ids"}
TIMM = {"needs": "timm"}
GEMMA4 = {"merged": "in squares", "grid": (4, 6), "kinds": "mm_token_type_ids"}
GEMMA4_IMAGE, GEMMA4_VIDEO = ("pixel_values", "image_position_ids"), ("pixel_values_videos", "video_position_ids")


def fields(name: str, model: str, config, picture, tokens: int, crops: int = 1, **more) -> dict:
    return {"name": name, "model_class": f"{model}ForConditionalGeneration", "config": config, "picture": picture,
            "tokens": tokens, "crops": crops, **more}  # fmt: skip


FIELDS = [
    fields("qwen3_vl_moe", "Qwen3VLMoe", qwen3_vl_moe, patches, 12, **QWEN),
    fields("qwen3_5", "Qwen3_5", functools.partial(qwen3_5, "Qwen3_5"), patches, 12, is_recurrent=True, **QWEN),
    fields("qwen3_5 video", "Qwen3_5", functools.partial(qwen3_5, "Qwen3_5"), frames(VIDEO), 12, 2, is_recurrent=True,
           **QWEN),
    fields("qwen3_5_moe", "Qwen3_5Moe", functools.partial(qwen3_5, "Qwen3_5Moe"), patches, 12, is_recurrent=True,
           **QWEN),
    fields("glm4v", "Glm4v", functools.partial(glm, "Glm4v"), patches, 12, **QWEN),
    fields("glm4v video", "Glm4v", functools.partial(glm, "Glm4v"), frames(IMAGE), 12, 2, **QWEN),
    fields("glm4v_moe", "Glm4vMoe", functools.partial(glm, "Glm4vMoe"), patches, 12, **QWEN),
    fields("glm46v", "Glm46V", functools.partial(glm, "Glm46V"), patches, 12, **QWEN),
    fields("mistral3", "Mistral3", mistral3, of_any_size(2), 6, merged="in squares", grid=(6, 4)),
    fields("pixtral", "Llava", pixtral, of_any_size(1), 24, merged="in squares", grid=(6, 4), side=1),
    fields("paligemma", "PaliGemma", paligemma, crop(56, 16), 16, reads="last_hidden_state"),
    fields("deepseek_vl", "DeepseekVL", deepseek, crop(56, 16), 16, tower="model.vision_model",
           reads="last_hidden_state"),
    fields("deepseek_vl_hybrid", "DeepseekVLHybrid", deepseek_hybrid, two_crops, 16, tower="model.vision_model",
           reads="last_hidden_state"),
    fields("aya_vision", "AyaVision", functools.partial(cohere, "AyaVision"), crop(112, 16), 16, merged="in squares"),
    fields("cohere2_vision", "Cohere2Vision", functools.partial(cohere, "Cohere2Vision"), crop(112, 16), 16,
           merged="in squares"),
    fields("ovis2", "Ovis2", ovis2, crop(112, 16), 16, merged="in squares"),
    fields("llama4", "Llama4", llama4, crop(112, 16), 16, merged="in squares", has_cls=True, tower="vision_model",
           language_model="language_model.model"),
    fields("lfm2_vl", "Lfm2Vl", lfm2, lfm2_picture, 6, merged="in squares", grid=(4, 6), is_recurrent=True),
    fields("perception_lm", "PerceptionLM", perception_lm, tiles("pixel_values", IMAGE), 4, 3, has_cls=True,
           **TIMM, merged="in squares"),
    fields("perception_lm video", "PerceptionLM", perception_lm, tiles("pixel_values_videos", VIDEO), 4, 3,
           has_cls=True, **TIMM, merged="in squares"),
    fields("fast_vlm", "FastVlm", fast_vlm, crop(256, 16), 16, **TIMM, merged="in squares", side=1),
    fields("gemma4", "Gemma4", functools.partial(gemma4, 8, None), positioned(*GEMMA4_IMAGE, 1, IMAGE), 6, **GEMMA4),
    fields("gemma4 bidirectional", "Gemma4", functools.partial(gemma4, 0, "vision"),
           positioned(*GEMMA4_IMAGE, 1, IMAGE), 6, **GEMMA4),
    fields("gemma4 video", "Gemma4", functools.partial(gemma4, 8, None), positioned(*GEMMA4_VIDEO, 2, VIDEO), 6, 2,
           **GEMMA4),
]  # fmt: skip
