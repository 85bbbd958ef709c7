"""How close generated sentences are to reference sentences.

A corpus is a list of N candidates and a list of N lists of references, each list with one
reference at least. Formulas follow the papers and the public caption evaluation code
(pycocoevalcap); words are those of `tokenise`.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

Ngram = tuple[str, ...]
Orders = tuple[Counter[Ngram], ...]

_WORD = re.compile(r"\w+")
_MAX_ORDER = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_REMEMBERED = (
    8192  # sentences: the same ones are scored for several metrics, and with all classes or right ones
)


def tokenise(text: str) -> list[str]:
    """Lower-case runs of letters and digits; `dark-blue` is two words, as decoders may space it apart."""
    return _WORD.findall(text.lower())


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], max_order: int = _MAX_ORDER
) -> list[float]:
    """Corpus BLEU-1 to BLEU-`max_order` (4 at most), each in [0, 1] (Papineni et al., ACL 2002).

    BLEU-n = BP * (p_1 ... p_n)^(1/n), p_k the share of candidate k-grams that also occur in a
    reference, each counted at most as often as in the reference that has it most often; BP =
    exp(1 - r/c) if the candidates' c words are fewer than r, the sum of the closest reference lengths
    (of two equally close the shorter). Not smoothed: without a matching k-gram the score is 0.
    """
    matched, total = [0] * max_order, [0] * max_order
    candidate_length = reference_length = 0
    for candidate, sentences in zip(candidates, references, strict=True):
        counts = _ngrams(candidate)
        reference_counts = [_ngrams(sentence) for sentence in sentences]
        length = counts[0].total()
        candidate_length += length
        lengths = [words.total() for words, *_ in reference_counts]
        reference_length += min(lengths, key=lambda other: (abs(other - length), other))
        for order in range(max_order):
            ceiling: Counter[Ngram] = Counter()
            for reference in reference_counts:
                ceiling |= reference[order]
            matched[order] += (counts[order] & ceiling).total()
            total[order] += counts[order].total()
    penalty = math.exp(min(0.0, 1.0 - reference_length / candidate_length)) if candidate_length else 0.0
    precisions = [hits / max(count, 1) for hits, count in zip(matched, total, strict=True)]
    return [penalty * math.prod(precisions[:order]) ** (1.0 / order) for order in range(1, max_order + 1)]


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L F score, in [0, 1] (Lin, ACL workshop 2004; beta 1.2 as in pycocoevalcap).

    F = (1 + beta^2) P R / (R + beta^2 P), P and R the longest common subsequence over the
    candidate's and the reference's length, each the best over the references.
    """
    scores = [
        _rouge_l(candidate, tuple(sentences))
        for candidate, sentences in zip(candidates, references, strict=True)
    ]
    return sum(scores) / len(scores) if scores else float("nan")


@functools.lru_cache(maxsize=_REMEMBERED)
def _rouge_l(candidate: str, references: tuple[str, ...]) -> float:
    words = tokenise(candidate)
    precision = recall = 0.0
    for reference in references:
        reference_words = tokenise(reference)
        common = _longest_common_subsequence(words, reference_words)
        precision = max(precision, common / max(len(words), 1))
        recall = max(recall, common / max(len(reference_words), 1))
    if not precision or not recall:
        return 0.0
    weight = _ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr-D, in [0, 10] (Vedantam et al., CVPR 2015; sigma 6, orders 1 to 4, as in pycocoevalcap).

    Ten times the mean over orders and references of the clipped cosine of TF-IDF vectors, damped by
    exp(-(length difference)^2 / (2 sigma^2)). Document frequencies come from the references given
    here, so values compare only between models scored on the same samples.
    """
    if not candidates:
        return float("nan")
    reference_counts = [[_ngrams(text) for text in texts] for texts in references]
    frequency: Counter[Ngram] = Counter()
    for counts in reference_counts:
        frequency.update(set().union(*(order for orders in counts for order in orders)))
    rarity = {ngram: math.log(len(candidates) / count) for ngram, count in frequency.items()}
    unseen = math.log(len(candidates))
    scores = [
        _cider_d(_ngrams(candidate), counts, rarity, unseen)
        for candidate, counts in zip(candidates, reference_counts, strict=True)
    ]
    return sum(scores) / len(scores)


def _cider_d(candidate: Orders, references: list[Orders], rarity: dict[Ngram, float], unseen: float) -> float:
    def weigh(orders: Orders) -> list[dict[Ngram, float]]:
        return [
            {ngram: count * rarity.get(ngram, unseen) for ngram, count in order.items()} for order in orders
        ]

    weighed = weigh(candidate)
    score = 0.0
    for reference in references:
        # the public code measures length in bigrams, one less than in words
        difference = candidate[1].total() - reference[1].total()
        damping = math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
        cosines = (_clipped_cosine(*pair) for pair in zip(weighed, weigh(reference), strict=True))
        score += damping * sum(cosines) / _MAX_ORDER
    return 10.0 * score / len(references)


def _clipped_cosine(candidate: dict[Ngram, float], reference: dict[Ngram, float]) -> float:
    norms = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    if not norms:
        return 0.0
    shared = candidate.keys() & reference.keys()
    return sum(min(candidate[ngram], reference[ngram]) * reference[ngram] for ngram in shared) / norms


@functools.lru_cache(maxsize=_REMEMBERED)
def _ngrams(text: str) -> Orders:
    """How often a text says each n-gram, for orders 1 to 4."""
    words = tokenise(text)
    return tuple(
        Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
        for order in range(1, _MAX_ORDER + 1)
    )


def slot_accuracy(texts: Sequence[str], slots: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """For each slot name (colour, place...) the share of samples whose text says the slot's value; in [0, 1].

    A value is said if its words follow each other in the text. Samples without a slot do not count for it.
    """
    said: dict[str, list[bool]] = defaultdict(list)
    for text, values in zip(texts, slots, strict=True):
        words = tokenise(text)
        for name, value in values.items():
            said[name].append(_says(words, tokenise(value)))
    return {name: sum(hits) / len(hits) for name, hits in said.items()}


def common_phrase(texts: Sequence[str], phrases: Sequence[str]) -> str | None:
    """The one phrase that every text says; None where there is none, or more than one."""
    sentences = [tokenise(text) for text in texts]
    said = [phrase for phrase in phrases if all(_says(words, tokenise(phrase)) for words in sentences)]
    return said[0] if sentences and len(said) == 1 else None


def _says(words: list[str], value: list[str]) -> bool:
    starts = range(len(words) - len(value) + 1)
    return bool(value) and any(words[start : start + len(value)] == value for start in starts)
