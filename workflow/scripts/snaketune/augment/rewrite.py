"""Texts rewritten by local sequence-to-sequence models: paraphrased, or translated and translated back.

Only a folder on this machine is read: nothing is fetched, no code of a model is run, and weights are safetensors. Beams
are searched without sampling, so that the same model gives the same texts on the same machine; several copies are the
best beams, each once. A batch has texts of as many tokens, so that there is no padding, and what a text becomes does
not depend on the others but for the rounding of sums.

A model reads at most `max_length` tokens of its tokenizer: a longer text would come back cut, and is left out.
"""

from __future__ import annotations

from pathlib import Path

from snaketune.job import StageError

BATCH = 16
BEAMS = 4
LONGEST = 512  # tokens, where the tokenizer names no limit
LENGTHENED = 1.5  # a rewritten text may have so many times the tokens of the text, and 16


class Rewriter:
    """One model that rewrites texts."""

    def __init__(self, folder: str, prefix: str = "") -> None:
        """Load a model and its tokenizer; prefix: put before each text. Raises StageError where it cannot be loaded."""
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            if not Path(folder).is_dir():
                raise OSError("there is no such folder")
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
            self._model = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, **safe)
        except (OSError, ValueError, KeyError) as error:
            raise StageError(
                f"The model {folder} cannot be loaded ({' '.join(str(error).split())[:300]}): give the folder of a "
                "sequence-to-sequence model with its tokenizer and .safetensors weights."
            ) from None
        self.prefix = prefix
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device).eval()
        limit = self._tokenizer.model_max_length
        self._limit = limit if limit < 1_000_000 else LONGEST

    def rewrite(self, texts: list[str], copies: int) -> list[list[str | None]]:
        """For each text its `copies` best rewritings, best first; None for a text that is too long."""
        if not texts:
            return []
        sizes = [len(ids) for ids in self._tokenizer([self.prefix + text for text in texts])["input_ids"]]
        by_size: dict[int, list[int]] = {}
        for place, size in enumerate(sizes):
            if size <= self._limit:
                by_size.setdefault(size, []).append(place)
        found: list[list[str | None]] = [[None] * copies for _ in texts]
        for _, places in sorted(by_size.items()):
            for start in range(0, len(places), BATCH):
                some = places[start : start + BATCH]
                for place, rewritten in zip(some, self._batch([texts[place] for place in some], copies), strict=True):
                    found[place] = list(rewritten)
        return found

    def _batch(self, texts: list[str], copies: int) -> list[list[str]]:
        """The same for texts of as many tokens."""
        import torch

        tokens = torch.tensor(self._tokenizer([self.prefix + text for text in texts])["input_ids"], device=self._device)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                num_beams=max(BEAMS, copies),
                num_return_sequences=copies,
                max_new_tokens=min(int(LENGTHENED * tokens.shape[1]) + 16, self._limit),
            )
        decoded = [text.strip() for text in self._tokenizer.batch_decode(made, skip_special_tokens=True)]
        return [decoded[start : start + copies] for start in range(0, len(decoded), copies)]


def there_and_back(there: Rewriter, back: Rewriter, texts: list[str], copies: int) -> list[list[str | None]]:
    """Texts translated to another language, `copies` ways, and each of these back once."""
    found: list[list[str | None]] = [[None] * copies for _ in texts]
    abroad = there.rewrite(texts, copies)
    ways = [(place, copy, text) for place, made in enumerate(abroad) for copy, text in enumerate(made) if text]
    for (place, copy, _), (text,) in zip(ways, back.rewrite([text for *_, text in ways], 1), strict=True):
        found[place][copy] = text
    return found
