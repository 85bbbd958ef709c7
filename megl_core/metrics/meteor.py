"""METEOR, by the Java program that the package pycocoevalcap carries."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from megl_core.errors import UnavailableError
from megl_core.metrics.text import tokenise

_JAR = "meteor-1.5.jar"
_MEMORY = "-Xmx2G"  # the table of paraphrases is large


def why_unavailable() -> str | None:
    """What METEOR lacks on this machine, or None."""
    if shutil.which("java") is None:
        return "no Java on this machine"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "the package pycocoevalcap is not installed"
    return None


class Meteor:
    """METEOR 1.5 for English (Denkowski and Lavie, WMT 2014). Close it, or use it in a `with`.

    Its program needs some seconds to read its tables; that happens beside what Python does meanwhile.

    Raises:
        UnavailableError: Java or the package is missing.
    """

    def __init__(self) -> None:
        if reason := why_unavailable():
            raise UnavailableError(f"METEOR cannot run: {reason}", fix="set evaluation.meteor=false")
        spec = importlib.util.find_spec("pycocoevalcap")
        folder = Path(next(iter(spec.submodule_search_locations or ()))) / "meteor" if spec else Path()
        self._program = subprocess.Popen(
            ["java", "-Dfile.encoding=UTF-8", _MEMORY, "-jar", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._questions = cast(IO[str], self._program.stdin)
        self._answers = cast(IO[str], self._program.stdout)
        self._compared: dict[tuple[str, tuple[str, ...]], str] = {}

    def score(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Corpus METEOR in [0, 1] of candidates (N,) against their lists of references; NaN without any.

        The words are those of `text.tokenise`.
        """
        if not candidates:
            return float("nan")
        statistics = [
            self._compare(_words(candidate), tuple(_words(sentence) for sentence in sentences))
            for candidate, sentences in zip(candidates, references, strict=True)
        ]
        self._ask("EVAL", *statistics)
        # the answer was the first candidate's own score; the others' follow, then the corpus's
        return float([self._read() for _ in statistics][-1])

    def close(self) -> None:
        """End the program."""
        self._program.kill()
        self._program.communicate()

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compare(self, candidate: str, references: tuple[str, ...]) -> str:
        """What the corpus score needs of a pair; kept, as it is asked again among the right classes."""
        pair = (candidate, references)
        if pair not in self._compared:
            self._compared[pair] = self._ask("SCORE", *references, candidate)
        return self._compared[pair]

    def _ask(self, *fields: str) -> str:
        try:
            self._questions.write(" ||| ".join(fields) + "\n")
            self._questions.flush()
        except OSError:
            raise _died() from None
        return self._read()

    def _read(self) -> str:
        answer = self._answers.readline()
        if not answer:
            raise _died()
        return answer.strip()


def _words(text: str) -> str:
    return " ".join(tokenise(text))


def _died() -> UnavailableError:
    return UnavailableError(
        "METEOR's Java program ended early", fix="give the machine 2 GB, or set evaluation.meteor=false"
    )
