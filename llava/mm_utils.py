"""Upstream's place of these names."""

from llava.checkpoints.folders import get_model_name_from_path as get_model_name_from_path
from llava.checkpoints.tokenizer import tokenizer_image_token as tokenizer_image_token
from llava.upstream.generation import KeywordsStoppingCriteria as KeywordsStoppingCriteria
from llava.upstream.generation import load_image_from_base64 as load_image_from_base64
from llava.vision.grids import get_anyres_image_grid_shape as get_anyres_image_grid_shape
from llava.vision.grids import select_best_resolution as select_best_resolution
from llava.vision.pictures import load_image as load_image
from llava.vision.pixels import divide_to_patches as divide_to_patches
from llava.vision.pixels import expand2square as expand2square
from llava.vision.pixels import process_anyres_image as process_anyres_image
from llava.vision.pixels import process_images as process_images
from llava.vision.pixels import resize_and_pad_image as resize_and_pad_image
from llava.vision.pixels import unpad_image as unpad_image
