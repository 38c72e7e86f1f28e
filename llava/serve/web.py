"""A web page that answers questions about pictures and shows which patches were kept: http://127.0.0.1:7860.

Without options the bundled model answers. Needs the extra `demo`: pip install -e '.[demo]'
"""

import argparse
import asyncio
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from llava.cli import CommandParser, run_command
from llava.conversation import check_conv_mode
from llava.errors import InputError, one_line
from llava.inference.options import (
    ModelOptions,
    add_crop_arguments,
    add_generation_arguments,
    add_weights_arguments,
    generation_options,
    model_options,
)
from llava.pruning.settings import DEFAULTS, add_settings_arguments
from llava.serve.page.samples import BUNDLED

MOST_SECONDS = 3  # from a signal to the end
BUNDLED_MODEL = BUNDLED / "checkpoints" / "llava-tiny"
LIMITS = "shapes, colours, places and signs. What it says of photographs means nothing."


def serve(args: argparse.Namespace) -> None:
    """Serve the page until the command is ended."""
    model, options = _model_options(args), generation_options(args)
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs the extra demo: pip install -e '.[demo]'")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else what was uploaded would be left
    uploads = None
    try:
        with _listen(args.host, args.port) as listener, _uploads_folder() as uploads:
            os.environ["GRADIO_TEMP_DIR"] = uploads  # Gradio knows no other way: what is uploaded goes with the command
            service, about = _service(args, model, options)
            _run(make_app(service, about, args.allow_urls, (args.host, args.allow_host)), listener, uploads)
    except SystemExit as ended:
        _leave(uploads, ended.code)
    except KeyboardInterrupt:
        _leave(uploads, 130)


def make_app(service, about: str, allow_urls: bool = False, names: tuple[str, list[str]] | None = None):
    """The application: the page at `/`, and where a model is here to answer the HTTP API at `/v1`.

    Args:
        service: what the page does.
        about: a line that says what answers; further lines say what to know of it.
        allow_urls: whether pictures that the API is sent may be URLs, which this machine then fetches.
        names: what `OwnNamesOnly` takes; None for an app that is not reached over a network.
    """
    import fastapi
    import gradio

    from llava.serve.api.routes import make_router
    from llava.serve.hosts import OwnNamesOnly
    from llava.serve.page.events import OwnEventsOnly, Uploads
    from llava.serve.page.headers import OwnHostOnly
    from llava.serve.page.layout import MOST_UPLOAD, build_page, css, head, theme

    app = fastapi.FastAPI(openapi_url=None)  # the pages about it load scripts from elsewhere
    uploads = Uploads()
    page = build_page(service, about, uploads)
    app.add_middleware(OwnEventsOnly, page, uploads)
    if names is not None:
        app.add_middleware(OwnNamesOnly, *names)
    app.add_middleware(OwnHostOnly)
    if service.server is None:
        model = service.model
        api = make_router(model.engine, model.name, template=model.template, allow_urls=allow_urls, turn=service.queue)
        app.include_router(api)
    return gradio.mount_gradio_app(
        app,
        page,
        "/",
        app_kwargs={"openapi_url": None},
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MOST_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=css(),
        head=head(),
    )


def _model_options(args: argparse.Namespace) -> ModelOptions:
    """The model that is named, or else the bundled one. Raises InputError for options that a server decides itself."""
    if args.conv_mode:
        check_conv_mode(args.conv_mode)
    if args.server:
        from llava.serve.page.vllm_server import SETTINGS

        of_server = [name for name in DEFAULTS if name not in SETTINGS]
        given = any(getattr(args, name) != DEFAULTS[name] for name in of_server)
        if args.conv_mode or args.num_beams != 1 or given:
            raise InputError(f"with --server, conv-mode, num_beams, {' and '.join(of_server)} are the server's")
        if args.allow_urls:
            raise InputError("--allow-urls is of the HTTP API, which a page with --server does not have")
    path = args.model_path or str(BUNDLED_MODEL)
    return model_options(argparse.Namespace(**vars(args) | {"model_path": path}))


def _service(args: argparse.Namespace, model: ModelOptions, options: dict) -> tuple:
    """What the page does, and a line about what answers."""
    from llava.serve.page.service import Service
    from llava.serve.page.vllm_server import VllmServer

    server = VllmServer(args.server, options) if args.server else None
    if server is not None and args.model_path is None:
        return Service(None, server, model.pruning), server.about
    from llava.serve.page.local_model import LocalModel

    loaded = model.load()
    local = LocalModel(loaded, model.name, args.conv_mode, options)
    if server is not None:
        return Service(local, server, model.pruning), f"{server.about}; {model.name} draws"
    where = f"{loaded.model.device}, {str(loaded.model.dtype).removeprefix('torch.')}"
    about = [
        f"{model.name}, {local.patches} patches of a crop, {where}, template {local.template.name}: the words around "
        "picture and question",
    ]
    if Path(model.model_path).resolve() == BUNDLED_MODEL:
        about.append(f"{model.name} knows drawn scenes only: {LIMITS}")
    return Service(local, None, model.pruning), "\n".join(about)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises InputError where there is no such address, or it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {one_line(error)}") from error


def _uploads_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="llava-web-", ignore_cleanup_errors=True)


def _leave(uploads: str | None, code: int) -> NoReturn:
    """End the process without waiting for its threads: whom they answer is gone, and a token may take minutes."""
    if uploads is not None:
        shutil.rmtree(uploads, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(app, listener: socket.socket, uploads: str) -> None:
    """Serve until a signal comes, and for at most `MOST_SECONDS` more."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            super().handle_exit(sig, frame)
            end = threading.Timer(MOST_SECONDS, _leave, (uploads, 128 + sig))
            end.daemon = True
            end.start()

    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelled_stream)
    Server(config).run(sockets=[listener])


def _is_no_cancelled_stream(record: logging.LogRecord) -> bool:
    """Whether a record is worth a line: the streams that end with the command are not."""
    is_cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not (is_cancelled or str(record.msg).startswith("Cancel %s running task"))


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", help="checkpoint folder or hub id (the bundled llava-tiny)")
    parser.add_argument("--server", help="let a vLLM server answer, such as http://127.0.0.1:8000")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 for all (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on (7860)")
    parser.add_argument("--allow-urls", action="store_true", help="fetch pictures that the HTTP API is sent as URLs")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a further name that this server is asked by, such as that of a proxy; again for each",
    )
    parser.add_argument("--conv-mode", help="prompt template (that of the published figures)")
    add_weights_arguments(parser)
    add_settings_arguments(parser)
    add_crop_arguments(parser)
    add_generation_arguments(parser, temperature=0, max_new_tokens=256)
    serve(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
