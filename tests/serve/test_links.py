"""The link that holds settings and scene."""

from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from llava.pruning import Settings
from llava.serve.page.links import Link, query_of
from llava.serve.page.samples import Sample
from llava.serve.page.service import Service
from tests.serve.conftest import GREEDY

SAMPLES = [Sample(Path("a.jpg"), "Park"), Sample(Path("b.jpg"), "Fire")]
ANSWERING = {"temperature": 0.5, "max_new_tokens": 9}


def read(service: Service, query: str) -> Link:
    return Link(service, SAMPLES, dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True)))


@pytest.mark.parametrize(
    "pruning",
    [
        Settings(16),
        Settings(40, 0.25, positions="original"),
        Settings(7, pruning_method="random", pruning_seed=3),
        Settings(16, pruning_method="none"),
    ],
)
def test_what_a_link_holds_is_read_again(service_of, pruning):
    service = service_of()
    query = query_of(service, pruning, ANSWERING, "Fire")
    link = read(service, query)
    assert (link.scene, link.answering, link.problem) == (1, ANSWERING, "")
    assert link.pruning.read == pruning.read
    assert "pruning_seed" not in query or pruning.pruning_method == "random"


def test_a_link_without_anything_is_the_page_as_it_begins(service_of):
    link = read(service_of(), "?__theme=dark")
    assert (link.pruning, link.scene, link.problem) == (service_of().settings, 0, "")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("visual_token_num=0", "at least 1"),
        ("visual_token_num=abc", "integer"),
        ("visual_token_num=500", "144 at most"),
        ("important_ratio=2", "[0, 1]"),
        ("pruning_method=nowhere", "no such method"),
        ("pruning_seed=", "integer"),
        ("positions=left", "renumbered"),
        ("temperature=hot", "hot"),
        ("temperature=-1", "temperature"),
        ("max_new_tokens=0", "max_new_tokens"),
        ("scene=moon", "no such scene"),
        ("colour=3", "no such setting"),
    ],
)
def test_what_is_invalid_is_named_in_a_line_and_the_rest_is_taken(service_of, wrong, named):
    service, name = service_of(), wrong.partition("=")[0]
    link = read(service, f"positions=after&{wrong}&scene=fire" if name != "scene" else f"positions=after&{wrong}")
    assert wrong in link.problem and named in link.problem and "\n" not in link.problem
    assert link.scene == (0 if name == "scene" else 1)
    positions = "renumbered" if name == "positions" else "after"
    assert link.pruning == Settings(16, positions=positions)
    assert link.answering == {"temperature": 0, "max_new_tokens": GREEDY["max_new_tokens"]}


def test_a_file_that_a_link_names_is_never_run(service_of, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "no such method" in read(service_of(), f"pruning_method={own}").problem
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("takes_settings", [True, False])
def test_settings_of_a_server_are_not_the_link_s(takes_settings, model_server):
    from llava.serve.page.vllm_server import VllmServer

    model_server.pruning |= {"patches": 144, "takes_settings": takes_settings}
    service = Service(None, VllmServer(model_server.url, GREEDY), Settings())
    link = read(service, "pruning_method=divprune&visual_token_num=32")
    assert "pruning_method=divprune: it is the server's" in link.problem
    assert link.pruning.visual_token_num == (32 if takes_settings else 64)
