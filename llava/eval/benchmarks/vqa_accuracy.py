"""An answer's normal form and VQA accuracy, which VQAv2, VizWiz and TextVQA share.

Antol et al., "VQA: Visual Question Answering", ICCV 2015, arXiv 1505.00468, and the VQA challenge's normal form as the
EvalAI server applies it.
"""

import re
from functools import lru_cache

PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
ARTICLES = ("a", "an", "the")
# The challenge counts "none" among the number words.
DIGITS = {"none": "0"} | {
    word: str(digit)
    for digit, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
}
# The words that the challenge restores an apostrophe to, by ending. Those that are words without it (its, well) and
# those with I, which its table spells with a capital that lower-casing never leaves, are not among them.
CONTRACTIONS_BY_ENDING = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you y'all",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who you y'all",
    "": "ma'am o'clock 'twas y'all",
}


def _without_one_apostrophe() -> dict[str, str]:
    """Every contraction by each of its spellings that lack one of its apostrophes."""
    contractions = [stem + ending for ending, stems in CONTRACTIONS_BY_ENDING.items() for stem in stems.split()]
    return {word[: mark.start()] + word[mark.end() :]: word for word in contractions for mark in re.finditer("'", word)}


# The challenge's table has this one the wrong way round.
CONTRACTIONS = _without_one_apostrophe() | {"somebody'd": "somebodyd"}


@lru_cache(maxsize=1 << 16)  # annotators' answers repeat: VQAv2 has 2 million, mostly the same few
def normalize_answer(answer: str) -> str:
    """The form in which the VQA challenge compares answers.

    Lower case; no commas, question marks, or full stops that no digit follows; other punctuation removed where a space
    stands beside it and turned to a space elsewhere; `'s` a word of its own; number words as digits; no articles;
    apostrophes restored.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = re.sub(r"[\n\t]", " ", text.strip()).strip()
    original = text
    for mark in PUNCTUATION:
        if mark in original:
            beside_space = f"{mark} " in original or f" {mark}" in original
            text = text.replace(mark, "" if beside_space else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [DIGITS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, annotators: list[str]) -> float:
    """VQA accuracy in [0, 1]: the mean over annotators of min(1, matches among the others / 3), by normal form."""
    answer = normalize_answer(answer)
    same = sum(normalize_answer(other) == answer for other in annotators)
    agreeing = same * min(1.0, (same - 1) / 3)
    differing = (len(annotators) - same) * min(1.0, same / 3)
    return (agreeing + differing) / len(annotators)
