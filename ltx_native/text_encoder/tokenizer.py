"""Gemma's tokenizer as LTX-2 calls it: stripped text, begin-of-sequence token, left padding to one length."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ltx_native.errors import CheckpointError, RequestError

MAX_LENGTH = 1024  # of the official text encoder
_NEXT_STEP = "Give the folder of a Gemma 3 model with tokenizer.json (or tokenizer.model) in it"
# transformers names these for a Gemma tokenizer unless tokenizer_config.json says otherwise
_SPECIAL = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}


class Tokens(NamedTuple):
    input_ids: mx.array  # (B, T) int64
    attention_mask: mx.array  # (B, T) int64, 1 at valid tokens


class GemmaTokenizer:
    """Reads a Gemma folder. Raises `CheckpointError` if there is no tokenizer or it has more tokens than `vocab_size`."""

    def __init__(self, folder: Path, vocab_size: int, max_length: int = MAX_LENGTH) -> None:
        self.folder = Path(folder)
        self.max_length = max_length
        config = self._config()
        special = {name: _content(config.get(name) or default) for name, default in _SPECIAL.items()}
        if (self.folder / "tokenizer.json").is_file():
            self._encode, self.pad_id, size = self._from_json(config, special)
        elif (self.folder / "tokenizer.model").is_file():
            self._encode, self.pad_id, size = self._from_sentencepiece(config, special)
        else:
            raise CheckpointError(
                "No tokenizer in the Gemma folder", str(folder), _listing(self.folder), "tokenizer.json", _NEXT_STEP
            )
        if size > vocab_size:
            raise CheckpointError(
                "The tokenizer does not belong to this text encoder", str(folder), f"{size} tokens",
                f"at most the {vocab_size} of the embedding table", "Take both from the same Gemma folder",
            )  # fmt: skip

    def __call__(self, text: str | Sequence[str], *, allow_empty: bool = False) -> Tokens:
        """One prompt or several. Raises `RequestError` for a prompt that is blank (unless allowed) or not Unicode."""
        rows = [self._row(prompt, allow_empty) for prompt in ([text] if isinstance(text, str) else text)]
        ids = np.full((len(rows), self.max_length), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            if row:
                ids[i, -len(row) :], mask[i, -len(row) :] = row, 1
        return Tokens(mx.array(ids), mx.array(mask))

    def _row(self, prompt: str, allow_empty: bool) -> list[int]:
        prompt = prompt.strip()
        if not prompt and not allow_empty:
            raise RequestError(
                "The prompt is empty", "prompt", prompt, "a description of the video", "Describe what to generate"
            )
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise RequestError(
                "The prompt is not valid Unicode", "prompt", ascii(prompt), "text in UTF-8", "Give the prompt in UTF-8"
            )
        return self._encode(prompt)

    def _config(self) -> dict[str, Any]:
        path = self.folder / "tokenizer_config.json"
        if not path.is_file():
            return {}
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError("The tokenizer's config is not JSON", str(path), str(error), "JSON", _NEXT_STEP) from None
        if not isinstance(config, dict):
            raise CheckpointError("The tokenizer's config is not an object", str(path), config, "a JSON object", _NEXT_STEP)
        return config

    def _from_json(self, config: dict[str, Any], special: dict[str, str]) -> tuple[Callable[[str], list[int]], int, int]:
        from tokenizers import Tokenizer
        from tokenizers.processors import TemplateProcessing

        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise CheckpointError(
                "The tokenizer cannot be read", str(path), str(error), "a tokenizer file", _NEXT_STEP
            ) from None
        tokenizer.add_special_tokens(list(special.values()))
        if "add_bos_token" in config or "add_eos_token" in config:
            before = [special["bos_token"]] if config.get("add_bos_token") else []
            after = [special["eos_token"]] if config.get("add_eos_token") else []
            tokenizer.post_processor = TemplateProcessing(
                single=[*before, "$A", *after], special_tokens=[(t, tokenizer.token_to_id(t)) for t in before + after]
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length, direction=config.get("truncation_side", "right"))

        def encode(text: str) -> list[int]:
            return list(tokenizer.encode(text).ids)

        pad_id = tokenizer.token_to_id(special["pad_token"])
        assert pad_id is not None  # added above if the file lacks it
        return encode, pad_id, tokenizer.get_vocab_size()

    def _from_sentencepiece(
        self, config: dict[str, Any], special: dict[str, str]
    ) -> tuple[Callable[[str], list[int]], int, int]:
        """Without tokenizer.json only the model's own pieces are known: tokens added later stay plain text."""
        import sentencepiece

        path = self.folder / "tokenizer.model"
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                "The tokenizer cannot be read", str(path), str(error), "a sentencepiece model", _NEXT_STEP
            ) from None
        before = [pieces.bos_id()] if config.get("add_bos_token", True) else []
        after = [pieces.eos_id()] if config.get("add_eos_token", False) else []
        room = self.max_length - len(before) - len(after)

        ids_of = {token: pieces.piece_to_id(token) for token in special.values()}
        known = {token: i for token, i in ids_of.items() if pieces.id_to_piece(i) == token}
        literal = re.compile("(" + "|".join(map(re.escape, known)) + ")")

        def encode(text: str) -> list[int]:
            # sentencepiece spells a special token out; Gemma's tokenizer takes it for the token it names
            ids = [i for part in literal.split(text) for i in ([known[part]] if part in known else pieces.encode(part))]
            return before + ids[:room] + after

        return encode, max(pieces.pad_id(), 0), int(pieces.get_piece_size())


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _listing(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:12]) if folder.is_dir() else "no such folder"
