"""Every name of vLLM that the plugin uses is there, read from vLLM's source: a new version is checked in a minute.

    pip download --no-deps vllm==0.33.0 && unzip -q vllm-0.33.0-*.whl -d unpacked
    VLLM_SOURCE=unpacked pytest tests/integrations/vllm/test_vllm_names.py

Without VLLM_SOURCE the installed vLLM is read. Nothing of vLLM is imported.
"""

import ast
import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.vllm.conftest import NO_VLLM, ROOT

SPEC = importlib.util.find_spec("vllm")
SOURCE = Path(os.environ.get("VLLM_SOURCE") or (Path(SPEC.origin).parents[1] if SPEC and SPEC.origin else "nowhere"))
pytestmark = pytest.mark.skipif(not (SOURCE / "vllm").is_dir(), reason=NO_VLLM)

CLIP, MULTIMODAL = "vllm.model_executor.models.clip", "vllm.multimodal"
CONTEXT, PROCESSOR = f"{MULTIMODAL}.processing.context", f"{MULTIMODAL}.processing.processor"
INTERFACES, UTILS = "vllm.model_executor.models.interfaces", "vllm.model_executor.models.utils"
MODELS = "vllm.model_executor.models"
QWEN = "get_mrope_input_positions forward"
LOADER, SERVER = "vllm.model_executor.model_loader.default_loader", "vllm.entrypoints"
USED = {  # in a module, or in a class of it: methods, their parameters, and attributes
    f"{CLIP}:CLIPVisionModel": "vision_model quant_config num_hidden_layers_override require_post_norm prefix",
    f"{CLIP}:CLIPVisionTransformer": "embeddings pre_layrnorm encoder",
    f"{CLIP}:CLIPVisionEmbeddings": "patch_embedding",
    f"{CLIP}:CLIPEncoder": "layers",
    f"{CLIP}:CLIPEncoderLayer": "self_attn layer_norm1",
    f"{CLIP}:CLIPAttention": "qkv_proj head_dim scale tp_size",
    "vllm.model_executor.layers.conv:ConvLayerBase": "enable_linear",
    "vllm.model_executor.layers.linear": "LinearBase _cpu_skip_gemm_dispatch",
    f"{INTERFACES}:SupportsMultiModal": "get_placeholder_str embed_multimodal embed_input_ids is_multimodal "
    "multimodal_embeddings configure_mm_token_handling _mark_tower_model _mark_language_model",
    f"{UTILS}:WeightsMapper": "orig_to_new_regex __or__",
    f"{UTILS}:AutoWeightsLoader": "load_weights mapper",
    UTILS: "vllm_config hf_config prefix",
    f"{LOADER}:DefaultModelLoader": "Source secondary_weights",
    f"{LOADER}:Source": "model_or_path revision subfolder prefix",
    f"{MULTIMODAL}.registry:MultiModalRegistry": "register_processor info dummy_inputs",
    f"{MULTIMODAL}.inputs:MultiModalFieldConfig": "batched keep_on_cpu",
    f"{MULTIMODAL}.parse:ImageProcessorItems": "get_image_size",
    f"{MULTIMODAL}.parse:MultiModalDataItems": "get_items",
    f"{CONTEXT}:InputProcessingContext": "get_hf_config get_mm_config",
    f"{CONTEXT}:BaseProcessingInfo": "ctx model_id get_tokenizer get_hf_config get_hf_processor "
    "get_supported_mm_limits get_mm_max_tokens_per_item seq_len mm_counts",
    f"{MULTIMODAL}.processing.dummy_inputs:BaseDummyInputsBuilder": "get_dummy_text get_dummy_mm_data info mm_options "
    "_get_dummy_images width height num_images overrides",
    f"{PROCESSOR}:BaseMultiModalProcessor": "_get_mm_fields_config hf_inputs hf_processor_mm_kwargs "
    "_get_prompt_updates mm_items out_mm_kwargs info",
    f"{PROCESSOR}:PromptReplacement": "replacement",
    f"{PROCESSOR}:PromptUpdate": "modality target",
    f"{MODELS}.config": "MODELS_CONFIG_MAP VerifyAndUpdateConfig Qwen3_5ForConditionalGeneration",
    f"{MODELS}.config:VerifyAndUpdateConfig": "verify_and_update_config vllm_config",
    f"{INTERFACES}:SupportsMRoPE": "get_mrope_input_positions input_tokens mm_features",
    INTERFACES: "supports_mm_device_do_normalize",
    f"{MODELS}.qwen2_vl": "Qwen2VLProcessingInfo Qwen2VLMultiModalProcessor Qwen2VLDummyInputsBuilder",
    f"{MODELS}.qwen2_vl:Qwen2VLForConditionalGeneration": f"{QWEN} visual config _process_image_input "
    "_process_video_input image_grid_thw video_grid_thw pixel_values pixel_values_videos second_per_grid_ts",
    f"{MODELS}.qwen2_vl:Qwen2VisionTransformer": "blocks spatial_merge_size input_norm dtype",
    f"{MODELS}.qwen2_vl:Qwen2VisionBlock": "attn",
    f"{MODELS}.qwen2_vl:Qwen2VisionAttention": "attn query key tp_size hidden_size_per_attention_head",
    f"{MODELS}.qwen2_5_vl": "Qwen2_5_VLProcessingInfo Qwen2_5_VLMultiModalProcessor Qwen2_5_VLDummyInputsBuilder",
    f"{MODELS}.qwen2_5_vl:Qwen2_5_VLForConditionalGeneration": f"{QWEN} visual config _process_image_input "
    "_process_video_input image_grid_thw video_grid_thw pixel_values pixel_values_videos second_per_grid_ts",
    f"{MODELS}.qwen2_5_vl:Qwen2_5_VisionTransformer": "blocks spatial_merge_size input_norm dtype get_rope_by_thw "
    "fullatt_block_indexes cu_seqlens_window_thw window_index_thw",
    f"{MODELS}.qwen2_5_vl:Qwen2_5_VisionBlock": "attn",
    f"{MODELS}.qwen2_5_vl:Qwen2_5_VisionAttention": "attn query key tp_size hidden_size_per_attention_head",
    f"{MODELS}.qwen3_vl": "Qwen3VLProcessingInfo Qwen3VLMultiModalProcessor Qwen3VLDummyInputsBuilder",
    f"{MODELS}.qwen3_vl:Qwen3VLForConditionalGeneration": f"{QWEN} embed_input_ids visual config _process_image_input "
    "_process_video_input image_grid_thw video_grid_thw pixel_values pixel_values_videos",
    f"{MODELS}.qwen3_vl:Qwen3_VisionTransformer": "blocks spatial_merge_size input_norm dtype",
    f"{MODELS}.qwen3_vl:Qwen3_VisionBlock": "attn Qwen2_5_VisionAttention",
    f"{MODELS}.qwen3_vl_moe": "Qwen3VLMoeProcessingInfo Qwen3VLMoeForConditionalGeneration",
    f"{MODELS}.qwen3_5": "Qwen3_5ProcessingInfo Qwen3_5MoeProcessingInfo Qwen3_5ForConditionalGeneration "
    "Qwen3_5MoeForConditionalGeneration",
    f"{MODELS}.interns1": "InternS1ProcessingInfo InternS1MultiModalProcessor InternS1DummyInputsBuilder "
    "InternVLProcessor",
    f"{MODELS}.interns1:InternS1ForConditionalGeneration": "vision_tower extract_feature num_image_token "
    "downsample_ratio pixel_values pixel_values_videos image_num_patches video_num_patches config",
    f"{MODELS}.interns1:InternS1MultiModalProcessor": "_finalize_hf_mm_data image_seq_length select_token_id "
    "image_num_patches video_num_patches image video",
    f"{MODELS}.interns1_vit:InternS1VisionModel": "encoder",
    f"{MODELS}.interns1_vit:InternS1VisionEncoder": "layer",
    f"{MODELS}.interns1_vit:InternS1VisionLayer": "attention",
    f"{MODELS}.interns1_vit:InternSdpaAttention": "attn head_dim scale",
    f"{MODELS}.registry": "InternVLForConditionalGeneration interns1",
    f"{PROCESSOR}:PromptUpdateDetails": "full is_embed",
    f"{MODELS}.llava_next": "LlavaNextProcessingInfo LlavaNextMultiModalProcessor",
    f"{MODELS}.llava_next:LlavaNextProcessingInfo": "_get_num_unpadded_features original_height original_width "
    "npatches num_patch_height num_patch_width get_vision_encoder_info get_patch_grid_length",
    f"{MODELS}.llava_next:LlavaNextForConditionalGeneration": "vision_tower select_layers multi_modal_projector "
    "_merge_image_patch_embeddings strategy config pixel_values image_sizes hf_to_vllm_mapper",
    f"{MODELS}.llava": "LlavaDummyInputsBuilder",
    f"{MODELS}.llava_onevision": "LlavaOnevisionProcessingInfo LlavaOnevisionMultiModalProcessor "
    "LlavaOnevisionDummyInputsBuilder",
    f"{MODELS}.llava_onevision:LlavaOnevisionProcessingInfo": "_get_num_frame_tokens image_width image_height "
    "_get_num_unpadded_features",
    f"{MODELS}.llava_onevision:LlavaOnevisionForConditionalGeneration": "vision_tower multi_modal_projector "
    "_merge_image_patch_embeddings image_newline strategy _image_pixels_to_features apply_pooling config "
    "pixel_values pixel_values_videos image_sizes hf_to_vllm_mapper",
    f"{MODELS}.siglip:SiglipVisionModel": "vision_model",
    f"{MODELS}.siglip:SiglipVisionTransformer": "encoder",
    f"{MODELS}.siglip:SiglipEncoder": "layers",
    f"{MODELS}.siglip:SiglipEncoderLayer": "self_attn",
    f"{MODELS}.siglip:SiglipAttention": "attn head_dim scale tp_size",
    f"{PROCESSOR}:BaseMultiModalProcessor.hosts": "get_dummy_inputs _postprocess_hf_mm_data mm_inputs processed_data "
    "_get_cache_missing_processor_kwargs mm_is_cached",
    f"{CONTEXT}:InputProcessingContext.hosts": "get_merged_mm_kwargs model_config tokenizer",
    f"{MULTIMODAL}.processing.inputs:ProcessorInputs": "hf_processor_mm_kwargs",
    f"{MULTIMODAL}.inputs:MultiModalFeatureSpec": "data modality mm_position",
    f"{MULTIMODAL}.inputs:PlaceholderRange": "offset length is_embed",
    f"{MULTIMODAL}.inputs:MultiModalKwargsItem": "MultiModalFieldElem data",
    "vllm.config.multimodal:MultiModalConfig.hosts": "video_pruning_rate mm_encoder_tp_mode enable_mm_embeds",
    "vllm.config.parallel:ParallelConfig": "pipeline_parallel_size use_ubatching",
    "vllm.config.compilation:CompilationConfig": "cudagraph_mm_encoder compile_mm_encoder",
    "vllm.config.lora:LoRAConfig": "enable_tower_connector_lora",
    "vllm.config.speculative:SpeculativeConfig": "method",
    "vllm.config.scheduler:SchedulerConfig": "max_num_batched_tokens",
    "vllm.config.vllm:VllmConfig": "model_config parallel_config compilation_config lora_config speculative_config "
    "scheduler_config",
    "vllm.model_executor.models.registry:_ModelRegistry": "register_model get_supported_archs models",
    "vllm.config.model:ModelConfig": "multimodal_config hf_config dtype model revision",
    "vllm.config.multimodal:MultiModalConfig": "mm_processor_kwargs",
    f"{SERVER}.launchers.api_server.app_state": "vllm_config args trust_request_mm_kwargs",
    f"{SERVER}.serve.middleware.register": "args.middleware add_middleware",
    f"{SERVER}.openai.api_server": "main",
    f"{SERVER}.cli.main": "main",
}


def parse(module: str) -> ast.Module:
    """The source of a module, and of those that it imports all of."""
    path = SOURCE.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    for node in tree.body[:]:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.names[0].name == "*":
            tree.body += parse(f"{module}.{node.module}").body
    return tree


def words(tree: ast.AST) -> Iterator[str]:
    """Names that a piece of source defines, takes, sets or reads."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg() | ast.keyword() if node.arg:
                yield node.arg
            case ast.Attribute():
                yield node.attr
                yield f"{ast.unparse(node.value)}.{node.attr}"
            case ast.Name():
                yield node.id
            case ast.Constant() if isinstance(node.value, str) and node.value.isidentifier():
                yield node.value
            case ast.alias():
                yield node.asname or node.name


@functools.cache
def imported() -> list[tuple[str, str]]:
    """(module, name) of every import from vLLM in the plugin."""
    found = set()
    for file in (ROOT / "llava" / "integrations" / "vllm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vllm":
                found |= {(node.module, alias.name) for alias in node.names}
    return sorted(found)


def test_every_import_is_there():
    assert len(imported()) > 20
    missing = [(module, name) for module, name in imported() if name not in set(words(parse(module)))]
    assert not [pair for pair in missing if not SOURCE.joinpath(*".".join(pair).split(".")).with_suffix(".py").exists()]


@pytest.mark.parametrize("place", USED)
def test_every_name_is_there(place):
    module, _, name = place.removesuffix(".hosts").partition(":")
    tree = parse(module)
    if name:
        (tree,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    assert not set(USED[place].split()) - set(words(tree))
