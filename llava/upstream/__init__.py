"""What exists for programs written for upstream LLaVA, and the table of upstream's names.

The modules on the left are where such programs look. They re-export, one line a name, what lives on the right, and
nothing in this package imports them.

| module | names | home |
|---|---|---|
| `llava.mm_utils` | `get_model_name_from_path` | `llava.checkpoints.folders` |
| `llava.mm_utils` | `tokenizer_image_token` | `llava.checkpoints.tokenizer` |
| `llava.mm_utils` | `KeywordsStoppingCriteria`, `load_image_from_base64` | `llava.upstream.generation` |
| `llava.mm_utils` | `get_anyres_image_grid_shape`, `select_best_resolution` | `llava.vision.grids` |
| `llava.mm_utils` | `load_image` | `llava.vision.pictures` |
| `llava.mm_utils` | `divide_to_patches`, `expand2square`, `resize_and_pad_image` | `llava.vision.pixels` |
| `llava.mm_utils` | `process_anyres_image`, `process_images`, `unpad_image` | `llava.vision.pixels` |
| `llava.utils` | `InputError` | `llava.errors` |
| `llava.utils` | `build_logger`, `disable_torch_init`, `pretty_print_semaphore` | `llava.upstream.server` |
| `llava.utils` | `moderation_msg`, `server_error_msg`, `violates_moderation` | `llava.upstream.server` |
| `llava.model.language_model.llava_llama` | `LlavaConfig`, `LlavaLlamaModel` | `llava.model.families.llama` |
| `llava.model.language_model.llava_llama` | `LlavaLlamaForCausalLM` | `llava.model.families.llama` |
| `llava.model.language_model.llava_mistral` | `LlavaMistralConfig` | `llava.model.families.mistral` |
| `llava.model.language_model.llava_mistral` | `LlavaMistralModel` | `llava.model.families.mistral` |
| `llava.model.language_model.llava_mistral` | `LlavaMistralForCausalLM` | `llava.model.families.mistral` |
| `llava.model.language_model.llava_qwen` | `LlavaQwenConfig`, `LlavaQwenModel` | `llava.model.families.qwen` |
| `llava.model.language_model.llava_qwen` | `LlavaQwenForCausalLM` | `llava.model.families.qwen` |

Two are former places of this package's own:

| module | names | home |
|---|---|---|
| `llava.model.visual_token_pruning` | `select_visual_tokens` | `llava.pruning.methods.vispruner` |
| `llava.pruning.base` | `PruningSettings` (now `Settings`) | `llava.pruning.settings` |
| `llava.pruning.base` | `MergedTokens`, `VisualTokens`, `highest`, `keep_patches` | `llava.pruning.tokens` |
| `llava.pruning.base` | `Views` | `llava.pruning.views` |

Other modules of upstream's are real files at upstream's places: `llava.constants`, `llava.conversation`,
`llava.model.builder`, `llava.model.llava_arch`, `llava.model.utils`, the builders of towers and projectors,
`llava.model.multimodal_encoder.clip_encoder`, `llava.train.train`, `llava.train.llava_trainer`, and the commands
`llava.serve.cli`, `llava.eval.run_llava`, `llava.eval.model_vqa*` and `llava.eval.eval_*`.
"""
