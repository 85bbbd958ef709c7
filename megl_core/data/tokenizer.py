"""Words to numbers and back: with a tokenizer learnt from the training rationales, or with a checkpoint's."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from megl_core.config import DecoderConfig

IGNORE = -100
"""What a batch holds after a sentence's end: no token of any tokenizer, and what cross-entropy leaves out."""

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
_WORD = r"\w+(?:['’.\-]\w+)*|[^\w\s]"  # don't, t-shirt and 3.5 are words
_OPENING, _CLOSING = set("([{"), set(".,;:!?)]}%")


class Tokenizer(Protocol):
    """What models and batches need of a tokenizer; `len` is the number of its tokens."""

    @property
    def begin(self) -> int:
        """The token before a sentence."""

    @property
    def end(self) -> int:
        """The token after a sentence; may be the same as `begin`."""

    def __len__(self) -> int: ...

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """`begin`, at most `max_tokens` tokens of the text, `end`."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that follow a begin token, up to the first `end`."""

    def save(self, path: Path) -> None:
        """Write one JSON file of the tokenizers library."""


def load_tokenizer(config: DecoderConfig, path: Path) -> Tokenizer:
    """The saved tokenizer of a decoder."""
    return WordTokenizer.load(path) if config.path is None else PretrainedTokenizer.load(path)


class WordTokenizer:
    """Lower-cased words and punctuation marks. Stored as one tokenizer.json of the tokenizers library."""

    begin = BEGIN
    end = END

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


class PretrainedTokenizer:
    """The tokenizer of a checkpoint, as one tokenizer.json of the tokenizers library.

    The file knows by itself which tokens begin and end a sentence: encoding an empty text yields them.
    """

    def __init__(self, serialised: str) -> None:
        from tokenizers import Tokenizer

        self._serialised = serialised
        self._tokenizer = Tokenizer.from_str(serialised)
        ids = self._tokenizer.encode("").ids
        self.begin: int = ids[0]
        self.end: int = ids[-1]

    @classmethod
    def between(cls, serialised: str, begin: str, end: str) -> "PretrainedTokenizer":
        """A tokenizer of the tokenizers library, its sentences between these special tokens."""
        from tokenizers import Tokenizer
        from tokenizers.processors import TemplateProcessing

        tokenizer = Tokenizer.from_str(serialised)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.post_processor = TemplateProcessing(
            single=[begin, "$A", end],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([begin, end])],
        )
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: Path) -> "PretrainedTokenizer":
        return cls(path.read_text(encoding="utf-8"))

    def save(self, path: Path) -> None:
        path.write_text(self._serialised, encoding="utf-8")

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """The begin token, at most `max_tokens` tokens of the text, the end token."""
        return [self.begin, *self.pieces(text)[:max_tokens], self.end]

    def pieces(self, text: str) -> list[int]:
        """The tokens of the text and no others."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text up to the first end token, without special tokens and outer spaces."""
        ids = list(tokens)
        text: str = self._tokenizer.decode(ids[: ids.index(self.end)] if self.end in ids else ids)
        return text.strip()
