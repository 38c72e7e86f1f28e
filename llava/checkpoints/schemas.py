"""What the JSON files of a checkpoint may hold: types and ranges of the fields that decide what is built.

Fields that are not named here are left as they are; those that are named may be absent. `read_checked` reads a file and
names the wrong field in one line.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from llava.constants import PATCH_MERGE_TYPES
from llava.errors import InputError
from llava.files import read_json_object
from llava.vision.grids import check_aspect_ratio

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Colour = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
Spread = Annotated[list[Positive], Field(min_length=3, max_length=3)]


class _File(BaseModel):
    """A JSON object; unknown fields are accepted and ignored."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class _Transformer(_File):
    """The sizes that language models and towers have in common."""

    hidden_size: Size | None = None
    intermediate_size: Size | None = None
    num_hidden_layers: Size | None = None
    num_attention_heads: Size | None = None
    hidden_act: str | None = None
    initializer_range: Annotated[FiniteFloat, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _heads_divide(self):
        width, heads = self.hidden_size, self.num_attention_heads
        if width and heads and width % heads and "head_dim" not in (self.model_extra or {}):
            raise ValueError(f"hidden_size {width} is not divisible by num_attention_heads {heads}")
        return self


class LlavaFile(_Transformer):
    """`config.json` of a LLaVA checkpoint, or of a language model that training starts from."""

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: Size | None = None
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    rms_norm_eps: Annotated[FiniteFloat, Field(ge=0)] | None = None
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    sliding_window: Size | None = None
    tie_word_embeddings: bool | None = None
    use_cache: bool | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    torch_dtype: str | None = None
    mm_vision_tower: str | None = None
    mm_hidden_size: Size | None = None
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str | None = None
    mm_projector_type: str | None = None
    mm_patch_merge_type: Literal[PATCH_MERGE_TYPES] | None = None
    mm_use_im_start_end: bool | None = None
    mm_use_im_patch_token: bool | None = None
    unfreeze_mm_vision_tower: bool | None = None
    image_aspect_ratio: Annotated[str, AfterValidator(check_aspect_ratio)] | None = None
    image_grid_pinpoints: str | list[Annotated[list[Size], Field(min_length=2, max_length=2)]] | None = None
    tokenizer_padding_side: Literal["left", "right"] | None = None
    tokenizer_model_max_length: Size | None = None

    @model_validator(mode="after")
    def _key_value_heads_divide(self):
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        if heads and shared and heads % shared:
            raise ValueError(f"num_attention_heads {heads} is not divisible by num_key_value_heads {shared}")
        return self


class HfTextPart(_Transformer):
    """The sizes that both parts of transformers' own LLaVA config have."""

    vocab_size: Size | None = None
    model_type: str | None = None


class HfLlavaFile(_File):
    """`config.json` of a LLaVA in transformers' own layout."""

    architectures: list[str] | None = None
    text_config: dict[str, Any]
    vision_config: dict[str, Any] | None = None
    image_token_index: Count | None = None
    image_token_id: Count | None = None
    projector_hidden_act: str | None = None
    multimodal_projector_bias: bool | None = None
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    image_grid_pinpoints: list[Annotated[list[Size], Field(min_length=2, max_length=2)]] | None = None
    tie_word_embeddings: bool | None = None


class VisionFile(_Transformer):
    """The vision side of a tower's `config.json`."""

    image_size: Size | None = None
    patch_size: Size | None = None
    num_channels: Literal[3] | None = None
    layer_norm_eps: Annotated[FiniteFloat, Field(ge=0)] | None = None
    attention_dropout: Share | None = None

    @model_validator(mode="after")
    def _patches_fit(self):
        if self.image_size and self.patch_size and self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} is greater than image_size {self.image_size}")
        return self


class Edge(_File):
    shortest_edge: Size


class Sides(_File):
    height: Size
    width: Size

    @model_validator(mode="after")
    def _is_square(self):
        if self.height != self.width:
            raise ValueError(f"{self.height} x {self.width} is not square")
        return self


class PreprocessorFile(_File):
    """`preprocessor_config.json` of a tower."""

    image_mean: Colour | None = None
    image_std: Spread | None = None
    size: Size | Edge | Sides | None = None
    crop_size: Size | Sides | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    rescale_factor: Positive | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_convert_rgb: bool | None = None


class GenerationFile(_File):
    """`generation_config.json` of a checkpoint."""

    temperature: Annotated[FiniteFloat, Field(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    max_length: Size | None = None
    max_new_tokens: Size | None = None
    num_beams: Size | None = None
    repetition_penalty: Positive | None = None
    do_sample: bool | None = None
    use_cache: bool | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None


class AddedToken(_File):
    content: str


class TokenizerFile(_File):
    """`tokenizer_config.json` of a checkpoint."""

    tokenizer_class: str | None = None
    legacy: bool | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    model_max_length: int | FiniteFloat | None = None
    padding_side: Literal["left", "right"] | None = None
    chat_template: str | list[dict] | None = None
    bos_token: str | AddedToken | None = None
    eos_token: str | AddedToken | None = None
    unk_token: str | AddedToken | None = None
    pad_token: str | AddedToken | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,10}$")], AddedToken] | None = None


def read_checked(path: Path, what: str, schema: type[_File]) -> dict:
    """The object in a JSON file. Raises InputError, calling the file `what`, for a field that is not as in `schema`."""
    values = read_json_object(path, what)
    check(values, schema, f"the {what} {path}")
    return values


def tower_model_type(values: dict) -> str | None:
    """`model_type` of a tower's config: of its vision side, where it has a side for language too."""
    vision = values.get("vision_config")
    nested = vision.get("model_type") if isinstance(vision, dict) else None
    return nested or values.get("model_type")


def read_image_processor_values(folder: Path) -> dict:
    """The image processor's values in a folder: its own file, or as transformers 5 writes it a part of the processor's.

    Raises InputError if there is neither, or one that cannot be read.
    """
    nested, own = folder / "processor_config.json", folder / "preprocessor_config.json"
    if nested.exists():
        values = read_json_object(nested, "processor config").get("image_processor")
        if isinstance(values, dict):
            check(values, PreprocessorFile, f"the processor config {nested}, image_processor")
            return values
    return read_checked(own, "image processor config", PreprocessorFile)


def check(values: dict, schema: type[BaseModel], where: str) -> None:
    """Raise InputError, saying where, for the first field of `values` that is not as in `schema`."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = next((str(part) for part in first["loc"]), "")
        given = repr(values.get(name))[:80] if name else ""
        cause = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {f'{name} is {given}: ' if name else ''}{cause}") from None
