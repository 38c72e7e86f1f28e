"""Requests a second of a random model through this package's own HTTP API, at several numbers of clients."""

import base64
import json
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO

import torch
from PIL import Image

from llava.inference import Engine
from llava.model.builder import LoadedModel
from llava.model.template import named_template
from llava.pruning import Settings
from llava.serve.queue import Queue

NAME = "random"


@contextmanager
def served(model, pruning: Settings) -> Iterator[str]:
    """The address of the API of a random model, as `llava page` has it, while it is served here."""
    import fastapi
    import uvicorn

    from llava.serve.api.routes import make_router

    tower, template = model.get_vision_tower(), named_template("vicuna_v1")
    side = tower.image_size
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = tower.make_image_processor(sizes)
    context = model.config.max_position_embeddings
    loaded = LoadedModel(model.tokenizer, model, processor, context, template)
    before, model.pruning = model.pruning, pruning
    app = fastapi.FastAPI(openapi_url=None)
    app.include_router(make_router(Engine(loaded), NAME, template=template, allow_urls=False, turn=Queue()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server ended before it served")
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        server.should_exit = True
        thread.join(10)
        model.pruning = before


def bodies(number: int, side: int, answer_tokens: int) -> list[bytes]:
    """Requests, each about a picture of noise of its own."""
    found, generator = [], torch.Generator().manual_seed(0)
    for i in range(number):
        noise = torch.randint(0, 256, (side // 8, side // 8, 3), generator=generator, dtype=torch.uint8)
        buffer = BytesIO()
        Image.fromarray(noise.numpy()).resize((side, side)).save(buffer, "JPEG")
        url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": f"What is in picture {i}?"},
        ]
        body = {"model": NAME, "temperature": 0, "max_tokens": answer_tokens}
        found.append(json.dumps(body | {"messages": [{"role": "user", "content": content}]}).encode())
    return found


def ask(address: str, body: bytes, answer_tokens: int) -> float:
    """Seconds until a request's answer is there, which has so many tokens. Raises RuntimeError if it has not."""
    start = time.perf_counter()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        usage = json.load(response)["usage"]
    if usage["completion_tokens"] != answer_tokens:
        raise RuntimeError(f"an answer has {usage['completion_tokens']} tokens in place of {answer_tokens}")
    return time.perf_counter() - start


def rates(address: str, asked: list[bytes], clients: int, answer_tokens: int) -> tuple[float, float]:
    """Requests a second, and the median of the seconds that one waits, of so many clients that ask without a pause."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = list(pool.map(lambda body: ask(address, body, answer_tokens), asked))
    return len(asked) / (time.perf_counter() - start), statistics.median(waits)
