"""Phrases to regions: where an image's rationale says that the object is.

A rationale that names a place is a weak mask for an image that nobody drew one for. What a word means on
the map is either learnt from the annotated images or, for the spatial words of English, known.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_WORD = re.compile(r"\w+")
_MAX_WORDS = 1000
_MAX_IMAGES = 20_000
_CHUNK = 10_000
_PENALTY = 0.1
_BLUR = 0.7  # deviation in cells

_VERTICAL = {"upper": "low", "top": "low", "lower": "high", "bottom": "high"}
_HORIZONTAL = {"left": "low", "right": "high"}
_CENTRAL = {"middle", "centre", "center", "central"}
_PAIR = re.compile(
    r"\b(upper|top|lower|bottom|middle|centre|center|central)[\s-]+(left|right|middle|centre|center)\b"
)
_SINGLE = re.compile(r"\b(left|right|top|bottom)\b|\bin the (centre|center|middle)\b")


def learned_regions(
    texts: Sequence[Sequence[str]], annotated: Sequence[int], masks: Tensor, mass: float
) -> Tensor:
    """Regions of all images, from a model of the mask given the words, learnt on the annotated ones.

    One logistic regression for each cell on the presence of words, jointly fitted by L-BFGS with an L2
    penalty, to masks blurred by less than a cell: a word that a handful of masks have met is trusted a
    little way around them. The region of an image is the smallest set of cells that holds `mass` of the
    expected mask. Words without a place move nothing, and an image without any telling word gets the
    cells where masks lie at all.

    Args:
        texts: the rationales of each of N images.
        annotated: the indices of M images with masks.
        masks: (M, h, w) in [0, 1], at map resolution.
        mass: in (0, 1].

    Returns:
        (N, h, w) bool.
    """
    vocabulary = _vocabulary(texts[index] for index in annotated)
    known = _presence([texts[index] for index in annotated[:_MAX_IMAGES]], vocabulary)
    weight, bias = _fit(known, _blur(masks)[:_MAX_IMAGES].flatten(1))
    regions = []
    for start in range(0, len(texts), _CHUNK):
        words = _presence(texts[start : start + _CHUNK], vocabulary)
        regions.append(_smallest_set((words @ weight + bias).sigmoid(), mass))
    return torch.cat(regions).view(len(texts), *masks.shape[1:])


def lexicon_regions(texts: Sequence[Sequence[str]], side: int) -> Tensor:
    """Regions (N, side, side) bool from the spatial words of English; everywhere without such a word.

    Left, right, top and bottom are halves of the image, its centre the middle three fifths; "upper left"
    is an intersection. A pair of words beats a single one, which may describe the object and not its
    place ("bars that cross in the middle").
    """
    return torch.stack([_lexicon_region(sentences, side) for sentences in texts])


def _vocabulary(texts: Iterable[Sequence[str]]) -> dict[str, int]:
    """The words that stand in the rationales of at least two images, the most frequent ones."""
    counts = Counter(word for sentences in texts for word in sorted(_words(sentences)))
    frequent = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:_MAX_WORDS]
    return {word: index for index, (word, count) in enumerate(frequent) if count > 1}


def _words(sentences: Sequence[str]) -> set[str]:
    return {word for sentence in sentences for word in _WORD.findall(sentence.lower())}


def _presence(texts: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> Tensor:
    """(N, V) in {0, 1}: which words stand in the rationales of each image."""
    table = torch.zeros(len(texts), len(vocabulary))
    for row, sentences in enumerate(texts):
        table[row, [vocabulary[word] for word in _words(sentences) if word in vocabulary]] = 1
    return table


def _blur(masks: Tensor) -> Tensor:
    distance = torch.arange(-2, 3, dtype=masks.dtype)
    kernel = (-distance.square() / (2 * _BLUR**2)).exp()
    kernel = kernel / kernel.sum()
    wide = F.pad(masks[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))[:, 0]


def _fit(words: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (V, P) and biases (P,) that maximise the penalised likelihood of masks (M, P)."""
    weight = torch.zeros(words.shape[1], masks.shape[1], requires_grad=True)
    bias = torch.logit(masks.mean(dim=0).clamp(0.01, 0.99)).requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=150)

    def loss() -> Tensor:
        solver.zero_grad()
        misfit = F.binary_cross_entropy_with_logits(words @ weight + bias, masks, reduction="sum")
        total = misfit + _PENALTY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _smallest_set(expected: Tensor, mass: float) -> Tensor:
    """(N, P) bool: each row's largest values, as few as hold `mass` of its sum."""
    values, order = expected.double().sort(dim=1, descending=True)  # small tails vanish in float32
    before = (values.cumsum(dim=1) - values) / values.sum(dim=1, keepdim=True)
    return torch.zeros_like(expected, dtype=torch.bool).scatter(1, order, before < mass)


def _lexicon_region(sentences: Sequence[str], side: int) -> Tensor:
    text = " ".join(sentences).lower()
    pairs = _PAIR.findall(text)
    singles = [word or central for word, central in _SINGLE.findall(text)]
    row, column = pairs[0] if pairs else ("", "")
    if not pairs:
        row = next((word for word in singles if word in _VERTICAL), "")
        column = next((word for word in singles if word in _HORIZONTAL), "")
        if not row and not column and singles:
            row = column = singles[0]
    rows = _band(_VERTICAL.get(row, "central" if row in _CENTRAL else "all"), side)
    columns = _band(_HORIZONTAL.get(column, "central" if column in _CENTRAL else "all"), side)
    return rows[:, None] & columns[None, :]


def _band(part: str, side: int) -> Tensor:
    """(side,) bool: the cells of one axis whose centre lies in a part of it."""
    centre = (torch.arange(side) + 0.5) / side
    if part == "low":
        return centre <= 0.5
    if part == "high":
        return centre >= 0.5
    if part == "central":
        return (centre >= 0.2) & (centre <= 0.8)
    return torch.ones(side, dtype=torch.bool)
