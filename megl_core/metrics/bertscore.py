"""BERTScore with a language model from a local folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from megl_core.errors import ConfigError


class BertScore:
    """BERTScore F1 (Zhang et al., ICLR 2020), without idf weights and without rescaling.

    Every token of one sentence is matched with the most similar token of the other, by the cosine of their
    contextual embeddings. As in the public code, the markers of begin and end may be matched but are not
    counted.

    Args:
        path: folder of an encoder with its tokenizer, weights as safetensors.
        layer: whose output is compared, from 1; None: the last. The paper's choice depends on the model:
            9 for bert-base, 17 for roberta-large.

    Raises:
        ConfigError: the folder holds no such model, or the model has no such layer.
    """

    def __init__(self, path: str, layer: int | None = None, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            if not Path(path).is_dir():
                raise OSError("no such folder")
            self._tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, add_prefix_space=True
            )
            model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"evaluation.bertscore_model cannot be loaded: {error}",
                where=path,
                fix="name a folder with config.json, model.safetensors and the tokenizer",
            ) from None
        num_layers = model.config.num_hidden_layers
        if layer is not None and not 1 <= layer <= num_layers:
            raise ConfigError(
                f"evaluation.bertscore_layer is {layer}, but the model has {num_layers} layers", where=path
            )
        self._model = model.to(device).eval()
        self._layer = num_layers if layer is None else layer
        # RoBERTa counts positions from 2
        self._max_length = min(self._tokenizer.model_max_length, model.config.max_position_embeddings - 2)

    def score(
        self, candidates: Sequence[str], references: Sequence[Sequence[str]], batch_size: int = 64
    ) -> list[float]:
        """F1 of each candidate with the reference that is closest; at most 1, and 0 for an empty sentence."""
        texts = {text.strip() for text in candidates}
        texts |= {text.strip() for sentences in references for text in sentences}
        embedded = self._embed(sorted(texts, key=lambda text: (len(text), text)), batch_size)
        return [
            max(greedy_f1(*embedded[candidate.strip()], *embedded[text.strip()]) for text in sentences)
            for candidate, sentences in zip(candidates, references, strict=True)
        ]

    @torch.no_grad()
    def _embed(self, texts: Sequence[str], batch_size: int) -> dict[str, tuple[Tensor, Tensor]]:
        """For each text its tokens' unit vectors (T, K), and (T,) whether they count."""
        embedded = {}
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            encoded = self._tokenizer(
                list(batch),
                padding=True,
                truncation=True,
                max_length=self._max_length,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self._model.device)
            counts = encoded.pop("special_tokens_mask") == 0
            present = encoded["attention_mask"].bool()
            hidden = self._model(**encoded, output_hidden_states=True).hidden_states[self._layer].float()
            vectors = torch.nn.functional.normalize(hidden, dim=-1)
            for text, vector, count, keep in zip(batch, vectors, counts, present, strict=True):
                embedded[text] = (vector[keep], count[keep])
        return embedded


def greedy_f1(vectors: Tensor, counts: Tensor, others: Tensor, others_count: Tensor) -> float:
    """F1 of the tokens' best cosines in both directions, in [-1, 1]; 0 where a side has no token that counts.

    Args:
        vectors: (T, K) unit vectors of the candidate's tokens; `counts` (T,) bool: those that are averaged.
        others: (U, K) those of the reference, and (U,) which of them count.
    """
    if not counts.any() or not others_count.any():
        return 0.0
    cosines = vectors @ others.T
    precision = float(cosines.amax(dim=1)[counts].mean())
    recall = float(cosines.amax(dim=0)[others_count].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
