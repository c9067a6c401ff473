"""A real, small Gemma tokenizer: a sentencepiece BPE model with byte fallback, and the same as `tokenizer.json`.

The model is trained on the sentences below each time (a few milliseconds, one thread, same pieces every time).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

PIECES = 504
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
TURN = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")

SENTENCES = (
    "A cat walks along the beach at sunset while the waves roll in and seagulls cry.",
    "Two children run through a field of tall grass; the wind is loud and the camera follows them.",
    "Close-up of a violinist playing a slow melody in a candle-lit room, soft reverb on the strings.",
    "An old red train crosses a stone bridge, steam rising, the whistle sounds three times.",
    "The city at night, neon lights reflected in wet streets, distant traffic and light rain.",
    "A chef chops onions on a wooden board, the knife taps quickly, then oil sizzles in the pan.",
    "Slow motion: a drop of water falls into a glass and makes rings that spread to the edge.",
    "Worst quality, blurry, jittery, distorted, inconsistent motion, low contrast, washed out colors.",
    "The speaker says, \"We are ready!\" and the crowd claps; a dog barks twice in the background.",
    "A robot walks up the stairs (12 steps, 3.5 seconds), turns around & waves at the viewer.",
    "Mountains under snow, a hawk circles high above the valley, the sun breaks through grey clouds.",
    "What does she see? A small boat, far away, moving from left to right over the calm blue sea.",
)  # fmt: skip


def train() -> bytes:
    """The serialised sentencepiece model."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="bpe", vocab_size=PIECES,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        unk_piece="<unk>", byte_fallback=True, split_digits=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", character_coverage=1.0, num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def tokenizer_json(model: bytes) -> str:
    """The same vocabulary and merges for the `tokenizers` library, wired as Gemma's tokenizer is."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    learned = [p for p, i in vocab.items() if i >= len(SPECIAL) and not pieces.is_byte(i)]
    merges = [  # in the order in which they were learned; a piece may be reached by several splits
        (piece[:cut], piece[cut:])
        for piece in sorted(learned, key=vocab.__getitem__)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, *TURN)])
    return str(tokenizer.to_str(pretty=True))


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<start_of_image>' }}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
    "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>", "model_max_length": 4096,
    "padding_side": "left", "clean_up_tokenization_spaces": False, "spaces_between_special_tokens": False,
    "extra_special_tokens": {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>",
    },
    "chat_template": CHAT_TEMPLATE,
}  # fmt: skip

PREPROCESSOR_CONFIG: dict[str, Any] = {
    "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor", "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
    "rescale_factor": 0.00392156862745098, "size": {"height": 28, "width": 28}, "image_seq_length": 4,
}  # fmt: skip


def write(folder: Path) -> None:
    """Write every tokenizer and processor file of a Gemma folder."""
    model = train()
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer.json").write_text(tokenizer_json(model) + "\n", encoding="utf-8")
    for name, content in (
        ("tokenizer_config.json", TOKENIZER_CONFIG),
        ("preprocessor_config.json", PREPROCESSOR_CONFIG),
        ("processor_config.json", {"processor_class": "Gemma3Processor", "image_seq_length": 4}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
