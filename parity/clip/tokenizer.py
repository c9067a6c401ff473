"""Captions to token ids, exactly as transformers' CLIPTokenizer and SiglipTokenizer.

A caption that does not fit is refused, not cut: a score for half a caption says nothing about the whole one.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ltx_native.errors import ConfigError, RequestError
from parity.clip.config import read_json

WORDS: Final = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
BEGIN: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"


class CaptionTokenizer(Protocol):
    """Both kinds: rows of ids, right-padded to one length."""

    limit: int

    def encode(self, captions: Sequence[str], truncate: bool = False) -> np.ndarray: ...

    def reads(self, caption: str) -> bool: ...


class ClipTokenizer:
    """Lower-cased byte-level BPE with word ends; `<|startoftext|> … <|endoftext|>`, padded to the longest row."""

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], limit: int, pad: str = END) -> None:
        self.limit = limit
        for token in (BEGIN, END, pad):
            if token not in vocab:
                raise ConfigError(
                    what="CLIP tokenizer lacks a special token",
                    where="the vocabulary",
                    value=f"{len(vocab)} tokens without {token}",
                    expected=f"{BEGIN}, {END} and the padding token",
                    next_step="use the tokenizer files that belong to the model",
                )
        model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=END, fuse_unk=False)
        tokenizer = Tokenizer(model)
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.post_processor = processors.RobertaProcessing(
            (END, vocab[END]), (BEGIN, vocab[BEGIN]), trim_offsets=False, add_prefix_space=False
        )
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in dict.fromkeys((BEGIN, END, pad))])
        self._tokenizer = tokenizer
        self._pad = vocab[pad]
        self._end = vocab[END]

    def encode(self, captions: Sequence[str], truncate: bool = False) -> np.ndarray:
        """(n, T) int32. With `truncate`, an over-long row is cut in front of its end token, as transformers does."""
        rows = []
        for caption in captions:
            ids = self._tokenizer.encode(caption).ids
            if len(ids) > self.limit:
                if not truncate:
                    raise _too_long(caption, len(ids), self.limit)
                ids = [*ids[: self.limit - 1], self._end]
            rows.append(ids)
        return pad_rows(rows, self._pad, max(map(len, rows), default=0))

    def reads(self, caption: str) -> bool:
        """Whether the whole caption arrives: an unknown character becomes an end token, at which the text tower stops."""
        return bool(self._tokenizer.encode(caption).ids.count(self._end) == 1)


class SiglipTokenizer:
    """SentencePiece on canonical text (lower case, no punctuation), `… </s>`, always padded to the full length."""

    def __init__(self, model_file: Path, limit: int) -> None:
        from sentencepiece import SentencePieceProcessor

        self.limit = limit
        self._model: Any = SentencePieceProcessor(model_file=str(model_file))
        self._end = int(self._model.piece_to_id("</s>"))
        self._prefix = len(self._model.encode("<unk>", out_type=str))

    def encode(self, captions: Sequence[str], truncate: bool = False) -> np.ndarray:
        """(n, limit) int32."""
        rows = []
        for caption in captions:
            ids = [*self._ids(caption), self._end]
            if len(ids) > self.limit:
                if not truncate:
                    raise _too_long(caption, len(ids), self.limit)
                ids = [*ids[: self.limit - 1], self._end]
            rows.append(ids)
        return pad_rows(rows, self._end, self.limit)

    def reads(self, caption: str) -> bool:
        """Whether every character is in the vocabulary, and no control token is spelled out."""
        return not {self._end, int(self._model.unk_id())} & set(self._ids(caption))

    def _ids(self, caption: str) -> list[int]:
        text = caption.replace("▁", " ").lower().translate(str.maketrans("", "", string.punctuation))
        text = re.sub(r"\s+", " ", "▁" + text).strip()
        # SentencePiece strips a leading space; a guard in front of it keeps the first word's mark.
        pieces = self._model.encode("<unk>" + text, out_type=str)[self._prefix :]
        return [int(self._model.piece_to_id(piece)) for piece in pieces]


def pad_rows(rows: Sequence[Sequence[int]], pad: int, length: int) -> np.ndarray:
    """(n, length) int32."""
    out = np.full((len(rows), length), pad, np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


def read_tokenizer(folder: Path, model_type: str, limit: int) -> CaptionTokenizer:
    """From tokenizer.json, or vocab.json and merges.txt; SigLIP from spiece.model."""
    if model_type == "siglip":
        if not (folder / "spiece.model").is_file():
            read_json(folder / "spiece.model")  # the one message for a missing file
        return SiglipTokenizer(folder / "spiece.model", limit)
    if (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model", {})
        vocab, listed = model.get("vocab"), model.get("merges")
        if model.get("type") not in (None, "BPE") or model.get("end_of_word_suffix") != "</w>":
            raise _not_clip(folder / "tokenizer.json", f"{model.get('type')}, {model.get('end_of_word_suffix')!r}")
    else:
        vocab = read_json(folder / "vocab.json")
        listed = _merges(folder / "merges.txt")
    if not isinstance(vocab, dict) or not isinstance(listed, list):
        raise _not_clip(folder / "tokenizer.json", "no vocab or merges")
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in listed]
    merges = [(str(left), str(right)) for left, right in pairs]
    pad = END
    if (folder / "tokenizer_config.json").is_file():
        given = read_json(folder / "tokenizer_config.json").get("pad_token") or END
        pad = given if isinstance(given, str) else str(given.get("content"))
    return ClipTokenizer(vocab, merges, limit, pad)


def _merges(path: Path) -> list[str]:
    if not path.is_file():
        read_json(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#version")]


def _too_long(caption: str, length: int, limit: int) -> RequestError:
    return RequestError(
        what="caption is too long for CLIP",
        where=json.dumps(caption[:80], ensure_ascii=False),
        value=f"{length} tokens",
        expected=f"at most {limit} tokens with begin and end",
        next_step="shorten the prompt in the suite: a score of a cut caption would not speak for the prompt",
    )


def _not_clip(path: Path, value: str) -> ConfigError:
    return ConfigError(
        what="not a CLIP tokenizer",
        where=str(path),
        value=value,
        expected='a BPE model with end_of_word_suffix "</w>"',
        next_step="use the tokenizer files that belong to the model",
    )
