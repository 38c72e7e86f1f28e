"""Names and ids that the model, the prompts and the commands share (upstream LLaVA's)."""

IGNORE_INDEX = -100
IMAGE_TOKEN_INDEX = -200
DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"
IMAGE_PLACEHOLDER = "<image-placeholder>"

LOGDIR = "."
CONTROLLER_HEART_BEAT_EXPIRATION = 30
WORKER_HEART_BEAT_INTERVAL = 15

PATCH_MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
IMAGE_ASPECT_RATIOS = ("square", "pad", "anyres")
