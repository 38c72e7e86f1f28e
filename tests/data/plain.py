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


def scope(features: np.ndarray, cls_attention: np.ndarray, number: int) -> list[int]:
    """SCOPE (NeurIPS 2025): the T of (N, C) features that are attended (N,) and cover the others, ascending.

    A patch covers another as well as it is similar to it. Each time the patch is picked whose attention times what it
    adds to the sum of how well each patch is covered, from 0 on, is greatest.
    """
    similarity = cosine_similarities(features)
    return _best_cover(similarity, cls_attention, number)


def _best_cover(values, weight, number: int) -> list[int]:
    covered, picked = [0.0] * len(values), []
    for _ in range(number):
        gains = {
            i: weight[i] * sum(max(0.0, row[i] - done) for row, done in zip(values, covered))
            for i in range(len(weight))
            if i not in picked
        }
        picked.append(max(gains, key=gains.get))
        covered = [max(done, row[picked[-1]]) for row, done in zip(values, covered)]
    return sorted(picked)


def cdpruner(features: np.ndarray, image_embeds: np.ndarray, text_embeds: np.ndarray, number: int) -> list[int]:
    """CDPruner (arXiv 2506.10967): the T of (N, C) projected features, relevant and unlike each other, ascending.

    Args:
        features: (N, C).
        image_embeds: (N, E), CLIP's embeddings of the patches.
        text_embeds: (M, E), those of the question.
        number: T.
    """
    texts = len(text_embeds)
    beside = cosine_similarities(np.concatenate([image_embeds, text_embeds]))
    relevance = [-sum(row[len(image_embeds) :]) / texts for row in beside[: len(image_embeds)]]
    least, most = min(relevance), max(relevance)
    r = [(value - least + 1e-6) / (most - least) for value in relevance]
    similarity = cosine_similarities(features)
    kernel = np.array([[r[i] * s * r[j] for j, s in enumerate(row)] for i, row in enumerate(similarity)])
    left, vectors, picked = np.diag(kernel).copy(), [], []
    for _ in range(number):
        j = max(range(len(left)), key=lambda i: left[i])
        vector = (kernel[j] - sum(c[j] * c for c in vectors)) / np.sqrt(left[j])
        vectors.append(vector)
        left = left - vector**2
        left[j] = -np.inf
        picked.append(j)
    return sorted(picked)


def holov(features: np.ndarray, cls_attention: np.ndarray, number: int) -> list[int]:
    """HoloV (NeurIPS 2025): the T patches that 16 runs of the raster sequence share, by (N, C) projected features.

    A run weighs more the more its patches are attended (N,) and the more their similarities vary.
    """
    patches = list(range(len(features)))
    runs, start = [], 0
    for run in range(16):
        length = len(patches) // 16 + (1 if run < len(patches) % 16 else 0)
        runs.append(patches[start : start + length])
        start += length
    weights = [_holov_weight(features[run], cls_attention[run]) if run else 0.0 for run in runs]
    quota = [int(number * weight / sum(weights)) for weight in weights]
    heaviest = ranked(weights)
    for run in heaviest[: number - sum(quota)]:
        quota[run] += 1
    surplus = 0
    for run in heaviest:
        wanted = quota[run] + surplus
        quota[run] = min(wanted, len(runs[run]))
        surplus = wanted - quota[run]
    return sorted(run[i] for run, part in zip(runs, quota) for i in ranked([cls_attention[j] for j in run])[:part])


def _holov_weight(features: np.ndarray, cls_attention: np.ndarray) -> float:
    attention = [1000.0 * float(a) for a in cls_attention]
    n = len(attention)
    if n == 1:
        return attention[0]
    variances = []
    for i, row in enumerate(cosine_similarities(features)):
        row = [0.0 if i == j else s for j, s in enumerate(row)]
        mean = sum(row) / (n - 1)
        variances.append(sum((s - mean) ** 2 for s in row) / (n - 1))
    scale = sum(map(abs, attention)) / n / (sum(map(abs, variances)) / n + 1e-6)
    return sum(a + 0.09 * scale * v for a, v in zip(attention, variances)) / n


def mmtok(features: np.ndarray, clip_features: np.ndarray, word_embeds: np.ndarray, number: int) -> list[int]:
    """MMTok (arXiv 2508.18264): the T patches that cover the question's words and the other patches, ascending.

    Args:
        features: (N, D), projected.
        clip_features: (N, C), the tower's.
        word_embeds: (W, D), of the question's tokens.
        number: T.
    """
    words, patches = len(word_embeds), len(features)
    beside = cosine_similarities(np.concatenate([word_embeds, features]))
    rows = [_softmax(row[words:], 0.02, words) for row in beside[:words]]
    rows += [_softmax(row, 0.2, 2 * patches) for row in cosine_similarities(clip_features)]
    return _best_cover(rows, [1.0] * patches, number)


def _softmax(row: list[float], temperature: float, share: int) -> list[float]:
    powers = [float(np.exp((value - max(row)) / temperature)) for value in row]
    return [power / sum(powers) / share for power in powers]


def mmr(features: np.ndarray, cls_attention: np.ndarray, number: int) -> list[int]:
    """IDPruner's rule with attention: the T of (N, D) projected features that are attended (N,) and unlike others."""
    low, high = min(cls_attention), max(cls_attention)
    relevance = [(value - low) / (high - low + 1e-6) for value in cls_attention]
    similarity = cosine_similarities(features)
    picked = [ranked(relevance)[0]]
    while len(picked) < number:
        left = [i for i in range(len(features)) if i not in picked]
        picked.append(max(left, key=lambda i: 0.5 * relevance[i] - 0.5 * max(similarity[i][j] for j in picked)))
    return sorted(picked)


def dart_embeds(features: np.ndarray, word_embeds: np.ndarray, number: int) -> list[int]:
    """DART on input embeddings: the T of (N, D) projected features least like 4 of them and 4 of the (m, D) words."""
    loudest = ranked([float(np.abs(vector).sum()) for vector in features])[: min(4, number)]
    words = ranked([float(np.abs(vector).sum()) for vector in word_embeds])[:4]
    pivots = [features[i] for i in loudest] + [word_embeds[i] for i in words]
    kept = set(loudest)
    for j, pivot in enumerate(pivots):
        missing, left = number - len(kept), len(pivots) - j
        cosine = [float(x @ pivot / (np.linalg.norm(x) * np.linalg.norm(pivot))) for x in features]
        others = sorted((i for i in range(len(features)) if i not in kept), key=lambda i: (cosine[i], i))
        kept.update(others[: (missing + left - 1) // left])
    return sorted(kept)


def _cells(height: int, width: int, number: int) -> tuple[int, int]:
    grids = [(h, w) for h in range(1, height + 1) for w in range(1, width + 1) if h * w <= number]
    stretch = {(h, w): max(h * width, w * height) / min(h * width, w * height) for h, w in grids}
    grids = [grid for grid in grids if stretch[grid] <= 2] or [(1, 1)]
    return min(grids, key=lambda grid: (-grid[0] * grid[1], stretch[grid], grid[0]))


def uniform(height: int, width: int, number: int) -> list[int]:
    """The T of height x width patches in the middle of a grid's cells, and more of the others, evenly spread."""
    h, w = _cells(height, width, number)
    kept = [
        (2 * i + 1) * height // (2 * h) * width + (2 * j + 1) * width // (2 * w) for i in range(h) for j in range(w)
    ]
    left, missing = [i for i in range(height * width) if i not in kept], number - len(kept)
    return sorted(kept + [left[(2 * r + 1) * len(left) // (2 * missing)] for r in range(missing)])


def hiprune(object_received, received, width: int, number: int, alpha: float) -> list[int]:
    """HiPrune (arXiv 2508.00553): anchors by the attention (N,) that a middle layer's receive, neighbours, the rest."""
    last, kept = len(received) - 1, set()
    for anchor in ranked(object_received)[: round(number * alpha / 5)]:
        for place in (anchor, anchor - 1, anchor + 1, anchor - width, anchor + width):
            kept.add(min(max(place, 0), last))
    others = [i for i in ranked(received) if i not in kept]
    return sorted(kept | set(others[: number - len(kept)]))


def prunesid(states: np.ndarray, cls_attention: np.ndarray, number: int) -> list[int]:
    """PruneSID (arXiv 2603.09480): the T - 1 of (N, C) states beside [CLS], group by group."""
    squashed = 1 / (1 + np.exp(-states))
    centred = (squashed - squashed.mean(axis=1, keepdims=True)).T
    directions = np.linalg.svd(centred, full_matrices=False)[2][: max(1, number // 4)]
    group_of = [int(np.argmax(np.abs(column))) for column in directions.T]
    similarity = np.array(cosine_similarities(states))
    patches = len(states)
    pairs = [similarity[i][j] for i in range(patches) for j in range(i + 1, patches)]
    threshold = number / 32 * sum(pairs) / len(pairs)
    orders, distinct = [], []
    for group in range(max(1, number // 4)):
        own, taken, struck = [i for i in ranked(cls_attention) if group_of[i] == group], [], []
        for i in own:
            (struck if any(similarity[i][j] > threshold for j in taken) else taken).append(i)
        orders.append(taken + struck)
        distinct.append(len(taken))
    sizes = [len(order) for order in orders]
    least = [min(1, size) for size in sizes]
    most = [min(5 * ((number + 63) // 64), size, m) for size, m in zip(sizes, distinct)]
    while sum(most) < number:
        most = [min(u + 1, size) for u, size in zip(most, sizes)]
    extra, running, before, quota = max(0, number - 1 - sum(least)), np.float32(0), 0, []
    for low, high, m in zip(least, most, distinct):
        running += np.float32(m) / np.float32(sum(distinct))
        end = int(np.round(running * np.float32(extra)))
        quota.append(min(low + end - before, high))
        before = end
    for group in ranked(distinct):
        quota[group] += min(extra + sum(least) - sum(quota), most[group] - quota[group])
    return [i for order, part in zip(orders, quota) for i in order[:part]]


def dart(states: np.ndarray, keys: np.ndarray, visual: range, number: int) -> list[int]:
    """DART (EMNLP 2025): the places of the visual tokens that go on, of (L, C) states and (L, w) keys of a prompt.

    `number` is the budget, of which 4 are for the visual pivots and the rest is cut to a multiple of 8.
    """
    loud = ranked([float(np.abs(key).sum()) for key in keys])
    pivots = [i for i in loud if i in visual][: min(4, number)]
    kept = set(pivots)
    pivots += [i for i in loud if i >= visual.stop][:4]
    for pivot in pivots:
        cosine = [float(x @ states[pivot] / (np.linalg.norm(x) * np.linalg.norm(states[pivot]))) for x in states]
        others = sorted((i for i in visual if i not in kept), key=lambda i: (cosine[i], i))
        kept.update(others[: max(0, number - 4) // 8])
    return sorted(kept)


def pool(features: np.ndarray, height: int, width: int, number: int) -> np.ndarray:
    """UniPruneBench's pooling: the means of the cells of `uniform`'s grid over height x width (N, C) features."""
    h, w = _cells(height, width, number)
    tokens = []
    for i in range(h):
        for j in range(w):
            rows = range(i * height // h, ((i + 1) * height + h - 1) // h)
            columns = range(j * width // w, ((j + 1) * width + w - 1) // w)
            cell = [features[row * width + column] for row in rows for column in columns]
            tokens.append(sum(cell) / len(cell))
    return np.array(tokens)
