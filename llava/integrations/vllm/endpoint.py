"""`GET /pruning` of a vLLM server: what it keeps of a picture, for clients such as the page.

    {"patches": 576, "takes_settings": false, "settings": {"visual_token_num": 64, ...}}

`patches` is null where that depends on the picture's size, and `visual_token_num` may be a share of them then. vLLM
says nothing of it. `scripts/serve.sh` adds the endpoint to vLLM's application, as a middleware.
"""

from dataclasses import asdict

from starlette.datastructures import State
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llava.integrations.vllm import ARCHITECTURE
from llava.integrations.vllm.processor import patches_of_crop
from llava.integrations.vllm.settings import own_settings, read_budget, tower_of
from llava.pruning import method_label

PATH = "/pruning"


class PruningEndpoint:
    """vLLM's application, and before it the endpoint. It needs no key, as vLLM's own `/version` does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "GET" and _path(scope) == PATH:
            app = JSONResponse(_describe(scope["app"].state))
        await app(scope, receive, send)


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _describe(state: State) -> dict:
    """Patches of a crop, whether a request may have settings of its own, and the settings of one that has none."""
    model = state.vllm_config.model_config
    own = own_settings(model.multimodal_config.mm_processor_kwargs)
    budget = read_budget({}, own, tower_of(model.hf_config))
    patches = patches_of_crop(model.hf_config) if ARCHITECTURE in model.hf_config.architectures else None
    settings = asdict(budget.settings if patches is None else budget.settings_for(patches))
    if patches is None and budget.share is not None:
        settings["visual_token_num"] = budget.share
    return {
        "patches": patches,
        "takes_settings": state.args.trust_request_mm_kwargs,
        # A method's file is the server's business: its name is not.
        "settings": settings | {"pruning_method": method_label(settings["pruning_method"])},
    }
