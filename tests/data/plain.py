"""The pruning methods in loops, for one crop or prompt: the reference cases are computed with them.

Written from the papers' formulas, to be read and not to be fast; nothing is shared with `llava.pruning`. Arithmetic is
done in the dtype of the arrays. Of equal values the lower position counts as the higher one.

Shapes: N patches, C channels, T the budget, T <= N.
"""

import numpy as np


def ranked(values) -> list[int]:
    """Positions of the values, highest value first."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def cosine_similarities(vectors: np.ndarray) -> list[list[float]]:
    """The cosine of the angle between every two of (N, C) vectors."""
    units = [vector / np.sqrt(np.dot(vector, vector)) for vector in vectors]
    return [[float(np.dot(x, y)) for y in units] for x in units]


def fastervlm(cls_attention: np.ndarray, number: int) -> list[int]:
    """FasterVLM (arXiv 2412.01818v1): the T patches with the highest [CLS] attention (N,), ascending."""
    return sorted(ranked(cls_attention)[:number])


def vispruner(features: np.ndarray, cls_attention: np.ndarray, number: int, important_ratio: float) -> list[int]:
    """VisPruner (arXiv 2412.01818, section 3): the kept ones of (N, C) features, ascending.

    int(T * ratio) patches are important: those with the highest [CLS] attention (N,). The other patches, most attended
    first, make a list from which near-duplicates go in rounds until the budget is met. A round deals the list out into
    a (even places) and b (odd places). Each patch of a has a score, its greatest similarity to any patch of b. The
    patches with the highest scores go, 8 at most. What is left of a, highest score first, and then b make the next
    list.
    """
    order = ranked(cls_attention)
    important_num = int(number * important_ratio)
    important, rest = order[:important_num], order[important_num:]
    diverse_num = number - important_num
    if diverse_num == 0:
        return sorted(important)
    similarity = cosine_similarities(features)
    while len(rest) > diverse_num:
        a, b = rest[0::2], rest[1::2]
        scores = [max(similarity[i][j] for j in b) for i in a]
        most_similar_first = [a[place] for place in ranked(scores)]
        dropped = min(8, len(rest) - diverse_num)
        rest = most_similar_first[dropped:] + b
    return sorted(important + rest)


def divprune(features: np.ndarray, number: int) -> list[int]:
    """DivPrune (arXiv 2503.02175): the T of (N, C) projected features that are far from one another, ascending.

    The distance is 1 - cosine. First the patch whose nearest other patch is farthest away, then each time the patch
    whose nearest picked patch is farthest away.
    """
    distance = [[1 - similarity for similarity in row] for row in cosine_similarities(features)]
    patches = range(len(features))
    picked = [max(patches, key=lambda i: min(distance[i][j] for j in patches if j != i))]
    while len(picked) < number:
        others = [i for i in patches if i not in picked]
        picked.append(max(others, key=lambda i: min(distance[i][j] for j in picked)))
    return sorted(picked)


def visionzip(hidden_states: np.ndarray, cls_attention: np.ndarray, keys: np.ndarray, number: int) -> np.ndarray:
    """VisionZip (arXiv 2412.04467): the (T, C) tokens that it makes of a layer.

    round(10 T / 64) tokens are contextual, the others dominant. Dominant: [CLS] and the patches with the highest
    attention, in raster order. Contextual: of the rest in raster order every s-th patch is a target, s = rest //
    contextual; each other patch of the rest joins the target whose key is most similar to its own. A contextual token
    is the target's state plus the mean state of those that joined it.

    Args:
        hidden_states: (1 + N, C), [CLS] first.
        cls_attention: (N,).
        keys: (1 + N, D), mean over heads, [CLS] first.
        number: T.
    """
    contextual_num = round(10 * number / 64)
    dominant = sorted(ranked(cls_attention)[: number - contextual_num - 1])
    tokens = [hidden_states[0]] + [hidden_states[1 + i] for i in dominant]
    if contextual_num == 0:
        return np.stack(tokens)
    rest = [i for i in range(len(cls_attention)) if i not in dominant]
    step = max(1, len(rest) // contextual_num)
    joined = {target: [] for target in rest[::step][:contextual_num]}
    similarity = cosine_similarities(keys[1:])
    for i in rest:
        if i not in joined:
            joined[max(joined, key=lambda target: similarity[i][target])].append(i)
    for target, others in joined.items():
        token = hidden_states[1 + target]
        if others:
            token = token + sum(hidden_states[1 + i] for i in others) / len(others)
        tokens.append(token)
    return np.stack(tokens)


def fastv(attention: np.ndarray, is_visual: list[bool], visual_share: float) -> list[int]:
    """FastV (arXiv 2403.06764): the places of a prompt's tokens that stay from layer K on, ascending.

    All text stays, and of the visual tokens the round(share * number) to which the last token attends most in layer
    K - 1, share being 1 - R.

    Args:
        attention: (L,), the last token's attention to each token, mean over heads.
        is_visual: L flags.
    """
    visual = [place for place, flag in enumerate(is_visual) if flag]
    number = round(visual_share * len(visual))
    most_attended = [visual[place] for place in ranked([attention[place] for place in visual])[:number]]
    return [place for place, flag in enumerate(is_visual) if not flag or place in most_attended]
