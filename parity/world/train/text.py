"""The world's text side: a small real tokenizer and a small Gemma 3 in Hugging Face layout.

Gemma's weights are random and stay frozen: the connectors and the transformer learn to read its features, as they
do in the real model, where Gemma is frozen too.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from parity.world.scene import all_captions
from parity.world.train.networks import GEMMA
from parity.world.train.recipe import SEED
from parity.world.train.state import without_gradients

SPECIAL = ("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<end_of_turn>")


def train_tokenizer() -> bytes:
    """A byte-fallback BPE (sentencepiece) over the world's sentences and the official negative prompt."""
    import sentencepiece
    from ltx_pipelines.utils.constants import DEFAULT_NEGATIVE_PROMPT

    sentences = [caption.text for caption in all_captions()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences + [DEFAULT_NEGATIVE_PROMPT] * 40),
        model_writer=model,
        model_type="bpe",
        vocab_size=GEMMA["pieces"],
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def merges_of(pieces: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merge list of a sentencepiece BPE: every split of a piece into two pieces, best piece first."""
    found = [
        (-scores[piece], pieces[piece[:cut]], pieces[piece[cut:]], piece[:cut], piece[cut:])
        for piece in pieces
        if not piece.startswith("<")
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [(left, right) for _, _, _, left, right in sorted(found)]


def write_tokenizer(folder: Path) -> None:
    """tokenizer.model, tokenizer.json and tokenizer_config.json that agree with each other."""
    import sentencepiece
    from transformers import GemmaTokenizer

    data = train_tokenizer()
    (folder / "tokenizer.model").write_bytes(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    count = processor.get_piece_size()
    pieces = {processor.id_to_piece(i): i for i in range(count)}
    scores = {processor.id_to_piece(i): processor.get_score(i) for i in range(count)}
    tokenizer = GemmaTokenizer(
        vocab=dict(pieces),
        merges=merges_of(pieces, scores),
        mask_token="<unk>",
        add_bos_token=True,
        model_max_length=1024,
        extra_special_tokens={
            "boi_token": SPECIAL[0],
            "eoi_token": SPECIAL[1],
            "image_token": SPECIAL[2],
            "sot_token": SPECIAL[3],
            "eot_token": SPECIAL[4],
        },
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(add_bos_token=True, tokenizer_class="GemmaTokenizer", processor_class="Gemma3Processor")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def gemma_config(image_token: int) -> Any:
    """The transformers configuration; special token ids follow the sentence pieces."""
    from transformers import Gemma3Config

    text = {k: v for k, v in GEMMA.items() if k != "pieces"}
    return Gemma3Config(
        text_config={
            **text,
            "max_position_embeddings": 4096,
            "sliding_window": 1024,
            "sliding_window_pattern": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=image_token - 2,
        eoi_token_index=image_token - 1,
        image_token_index=image_token,
    )


def write_gemma(folder: Path) -> None:
    """The whole Hugging Face folder: tokenizer, image processor and bf16 weights."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = Gemma3ForConditionalGeneration(gemma_config(tokenizer.convert_tokens_to_ids(SPECIAL[2])))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, param in model.named_parameters():
            _initialise(name, param, generator)
    model.bfloat16().save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {_vision_key(key): value for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    image = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": 4,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 28, "width": 28},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n", encoding="utf-8")
    processor = {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def _vision_key(key: str) -> str:
    """transformers 5 drops a level that the released Gemma 3 files and ltx-core have."""
    head, found, tail = key.partition("vision_tower.")
    return f"{head}{found}vision_model.{tail}" if found and not tail.startswith("vision_model.") else key


def _initialise(name: str, param: torch.Tensor, generator: torch.Generator) -> None:
    """Token identity stays the largest part of every hidden state; a layer adds about half a unit."""
    noise = torch.randn(param.shape, generator=generator)
    if "norm" in name and param.ndim == 1:
        centre = -0.5 if "post_attention" in name or "post_feedforward" in name else 0.0
        param.copy_(centre + 0.1 * noise if "language_model" in name else 1.0 + 0.1 * noise)
    elif "embed_tokens" in name:
        param.copy_(0.25 * noise)
    elif param.ndim >= 2:
        param.copy_(noise / param[0].numel() ** 0.5)
    else:
        param.copy_(0.02 * noise)


class TextEncoder:
    """Tokenizer and Gemma of a folder, run as the official pipeline runs them (fp32, 1,024 left-padded tokens)."""

    def __init__(self, folder: Path) -> None:
        from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer
        from transformers import Gemma3ForConditionalGeneration

        self.tokenizer = LTXVGemmaTokenizer(str(folder), 1024)
        self.model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    @without_gradients
    def hidden_states(self, text: str) -> torch.Tensor:
        """(N, D, L + 1): every layer's states of the N real tokens."""
        pairs = self.tokenizer.tokenize_with_weights(text)["gemma"]
        ids = torch.tensor([[int(t) for t, _ in pairs]])
        mask = torch.tensor([[int(w) for _, w in pairs]])
        states = self.model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        count = int(mask.sum())
        return torch.stack([s[0, -count:] for s in states], dim=-1)
