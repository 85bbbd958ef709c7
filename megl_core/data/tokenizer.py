"""Words to numbers and back: a word-level tokenizer learnt from the training rationales."""

from collections.abc import Iterable, Sequence
from pathlib import Path

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
_WORD = r"\w+(?:['’.\-]\w+)*|[^\w\s]"  # don't, t-shirt and 3.5 are words
_OPENING, _CLOSING = set("([{"), set(".,;:!?)]}%")


class WordTokenizer:
    """Lower-cased words and punctuation marks. Stored as one tokenizer.json of the tokenizers library."""

    def __init__(self, serialised: str) -> None:
        from tokenizers import Tokenizer

        self._serialised = serialised
        self._tokenizer = Tokenizer.from_str(serialised)

    @classmethod
    def learn(cls, texts: Iterable[str], min_count: int = 1) -> "WordTokenizer":
        """A vocabulary of the words that occur at least `min_count` times, the same for any order."""
        from collections import Counter

        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        splitter = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
        counts: Counter[str] = Counter()
        for text in texts:
            pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
            counts.update(word for word, _ in pieces)
        known = sorted(word for word, count in counts.items() if count >= min_count)
        vocabulary = {word: index for index, word in enumerate([*SPECIAL, *known])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = splitter
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: Path) -> "WordTokenizer":
        return cls(path.read_text(encoding="utf-8"))

    def save(self, path: Path) -> None:
        path.write_text(self._serialised, encoding="utf-8")

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """`<bos> words... <eos>`, cut to `max_tokens` words."""
        return [BEGIN, *self._tokenizer.encode(text).ids[:max_tokens], END]

    def decode(self, tokens: Sequence[int]) -> str:
        """A readable sentence: up to the first `<eos>`, punctuation joined, first letter a capital."""
        sentence = ""
        for token in tokens:
            if token == END:
                break
            if token in (PAD, BEGIN):
                continue
            word = self._tokenizer.id_to_token(token) or SPECIAL[UNKNOWN]
            joined = not sentence or word in _CLOSING or sentence[-1] in _OPENING
            sentence += word if joined else f" {word}"
        return sentence[:1].upper() + sentence[1:]
