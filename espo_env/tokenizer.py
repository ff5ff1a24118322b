"""A thin view of a `tokenizers` tokenizer: the four things that a token environment needs of one.

- :class:`Tokenizer`: encode, decode, vocabulary size, end-of-sequence token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

__all__ = ["Tokenizer"]

_EOS = "<eos>"


class Tokenizer:
    """Wraps ``tokenizers.Tokenizer`` with an end-of-sequence token.

    Args:
        backend: The real tokenizer.
        eos_token: The token that ends a response.

    Raises:
        ValueError: If the end-of-sequence token is missing or not in the vocabulary.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_token: str | None) -> None:
        if eos_token is None:
            raise ValueError("expected a tokenizer with an end-of-sequence token, got eos_token None")
        eos_token_id = backend.token_to_id(eos_token)
        if eos_token_id is None:
            raise ValueError(f"expected an end-of-sequence token out of the vocabulary, got {eos_token!r}")
        self.backend = backend
        self.eos_token = eos_token
        self.eos_token_id: int = eos_token_id
        self._unknown_id = _unknown_id(backend)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, nothing added.

        Raises:
            ValueError: If the text has something that the vocabulary cannot express.
        """
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # what the backend raises where its vocabulary has no unknown token
            raise self._inexpressible(text, [c for c in text if not self._knows(c)]) from error
        if self._unknown_id is not None and self._unknown_id in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            raise self._inexpressible(text, [text[a:b] for token, (a, b) in spans if token == self._unknown_id])
        return encoding.ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as :meth:`encode`, but many at once; an unknown token stays in.

        Raises:
            ValueError: If the vocabulary has no unknown token, and a text something that it cannot express.
        """
        try:
            return [encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]
        except Exception:
            return [self.encode(text) for text in texts]  # says which text, and what in it

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the tokens, without special tokens."""
        return self.backend.decode([int(t) for t in tokens], skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        """One token, as it is shown to a person."""
        return self.backend.decode([int(token_id)], skip_special_tokens=False)

    def _knows(self, character: str) -> bool:
        try:
            self.backend.encode(character, add_special_tokens=False)
        except Exception:
            return False
        return True

    def _inexpressible(self, text: str, parts: list[str]) -> ValueError:
        shown = text if len(text) <= 80 else text[:77] + "..."
        return ValueError(
            f"expected text that the vocabulary of {self.vocab_size} tokens can express, "
            f"got {', '.join(map(repr, dict.fromkeys(parts)))} in {shown!r}"
        )

    @classmethod
    def from_symbols(cls, symbols: Sequence[str]) -> Tokenizer:
        """A tokenizer in which every character out of ``symbols`` is a token: for small tasks.

        Text with any other character cannot be encoded.

        Raises:
            ValueError: If a symbol is not one character, or appears twice.
        """
        if len(set(symbols)) != len(symbols) or any(len(symbol) != 1 for symbol in symbols):
            raise ValueError(f"expected different single characters, got {symbols!r}")
        return cls._from_alphabet(symbols, [], decoders.Fuse())

    @classmethod
    def from_bytes(cls) -> Tokenizer:
        """A tokenizer in which every byte of UTF-8 is a token: for small models and any text."""
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return cls._from_alphabet(sorted(to_bytes.alphabet()), [to_bytes], decoders.ByteLevel())

    @classmethod
    def _from_alphabet(
        cls,
        alphabet: Sequence[str],
        before: list[pre_tokenizers.PreTokenizer],
        decoder: decoders.Decoder,
    ) -> Tokenizer:
        vocabulary = {_EOS: 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}
        # No unknown token: it would be one more action, and never a useful one.
        backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))
        single = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([*before, single])
        backend.decoder = decoder
        backend.add_special_tokens([_EOS])
        return cls(backend, _EOS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Tokenizer:
        """Reads ``tokenizer.json`` and ``tokenizer_config.json`` of a Hugging Face model folder.

        Raises:
            FileNotFoundError: If the folder or ``tokenizer.json`` is missing.
            ValueError: If it has no end-of-sequence token.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"expected a model folder with a tokenizer.json, got {str(folder)!r}")
        config = Path(folder) / "tokenizer_config.json"
        eos = json.loads(config.read_text("utf-8")).get("eos_token") if config.is_file() else None
        if isinstance(eos, dict):  # older files keep the token's flags beside it
            eos = eos["content"]
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), eos)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the files that ``transformers.AutoTokenizer`` and :meth:`from_pretrained` read."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(path / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.eos_token,
            "pad_token": self.eos_token,
        }
        (path / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def __getstate__(self) -> dict[str, str]:
        return {"backend": self.backend.to_str(), "eos_token": self.eos_token}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(tokenizers.Tokenizer.from_str(state["backend"]), state["eos_token"])  # type: ignore[misc]


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    if isinstance(backend.model, models.Unigram):
        # Only its serialised form tells.
        return json.loads(backend.to_str())["model"]["unk_id"]
    token = backend.model.unk_token
    return None if token is None else backend.token_to_id(token)
