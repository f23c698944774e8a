"""transformers: one small model of each of many architectures, from its configuration; nothing is downloaded.

Heads, widths and depths are those of small published models divided by a few; three are as large as people use them.
The cache of keys and values is off, as it is in training: with it the network returns what every head computed.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from torch import nn

from zoo.networks import Entry

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WIDTHS = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
TEXT = {**WIDTHS, "vocab_size": 512}
GROUPED = {**TEXT, "num_key_value_heads": 2}
IMAGES = {**WIDTHS, "image_size": 64, "patch_size": 8}
CLASSIFIER = {"num_labels": 10}
LANGUAGE, SEQUENCE = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
IMAGE = "AutoModelForImageClassification"

SWIN = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
LLAMA_60M = {**GROUPED, "vocab_size": 16000, "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
             "num_key_value_heads": 4, "intermediate_size": 1376}  # fmt: skip

# name, class of configuration, class of model, options
DECODERS: list[tuple[str, str, dict[str, Any]]] = [
    ("gpt2", "GPT2Config", {"vocab_size": 512, "n_embd": 128, "n_layer": 4, "n_head": 4}),
    ("gpt_neox", "GPTNeoXConfig", TEXT),
    ("opt", "OPTConfig", {**TEXT, "ffn_dim": 384, "word_embed_proj_dim": 128}),
    ("bloom", "BloomConfig", {"vocab_size": 512, "hidden_size": 128, "n_layer": 4, "n_head": 4}),
    ("llama", "LlamaConfig", GROUPED),
    ("mistral", "MistralConfig", GROUPED),
    ("mixtral", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    ("qwen2", "Qwen2Config", GROUPED),
    ("qwen3", "Qwen3Config", {**GROUPED, "head_dim": 32}),
    ("phi", "PhiConfig", TEXT),
    ("gemma", "GemmaConfig", {**GROUPED, "head_dim": 32}),
]
ENCODERS: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "BertConfig", TEXT),
    ("roberta", "RobertaConfig", TEXT),
    ("albert", "AlbertConfig", {**TEXT, "embedding_size": 64}),
    ("electra", "ElectraConfig", {**TEXT, "embedding_size": 64}),
    ("distilbert", "DistilBertConfig", {"vocab_size": 512, "dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 384}),
    ("distilbert-base", "DistilBertConfig", {}),
    ("deberta-v2", "DebertaV2Config", TEXT),
    ("modernbert", "ModernBertConfig", {**TEXT, "pad_token_id": 0}),
    ("mpnet", "MPNetConfig", TEXT),
]
VISION: list[tuple[str, str, dict[str, Any]]] = [
    ("vit", "ViTConfig", IMAGES),
    ("vit-base", "ViTConfig", {"image_size": 64}),
    ("beit", "BeitConfig", IMAGES),
    ("dinov2", "Dinov2Config", IMAGES),
    ("swin", "SwinConfig", SWIN),
    ("convnext", "ConvNextConfig", {"hidden_sizes": [32, 64, 96, 128], "depths": [2, 2, 2, 2]}),
    ("segformer", "SegformerConfig", {}),
    ("mobilevit", "MobileViTConfig", {"image_size": 64}),
]


def entries() -> list[Entry]:
    """One for each model."""
    return [
        *(_text(name, LANGUAGE, config, options) for name, config, options in DECODERS),
        _text("llama-60M", LANGUAGE, "LlamaConfig", LLAMA_60M),
        *(_text(name, SEQUENCE, config, {**options, **CLASSIFIER}) for name, config, options in ENCODERS),
        *(_image(name, IMAGE, config, {**options, **CLASSIFIER}) for name, config, options in VISION),
        _image("deit", "DeiTForImageClassification", "DeiTConfig", {**IMAGES, **CLASSIFIER}),
        _text("t5-encoder", "T5EncoderModel", "T5Config", {"vocab_size": 512, "d_model": 128, "d_kv": 32, "d_ff": 384,
                                                           "num_layers": 4, "num_heads": 4}),
        _audio("wav2vec2", "AutoModelForAudioClassification", "Wav2Vec2Config",
               {**TEXT, "conv_dim": [64] * 7, "vocab_size": 32, "num_conv_pos_embeddings": 16, **CLASSIFIER}),
    ]  # fmt: skip


def _make(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    settings = getattr(transformers, config)(**options)
    if hasattr(settings, "use_cache"):
        settings.use_cache = False
    settings._experts_implementation = "eager"  # its grouped product knows no float64
    cls = getattr(transformers, model)
    return cls.from_config(settings) if model.startswith("Auto") else cls(settings)


def _text(name: str, model: str, config: str, options: dict[str, Any]) -> Entry:
    vocabulary = options.get("vocab_size", 512)
    classes = options.get("num_labels", vocabulary)
    make = partial(_make, model, config, options)
    return Entry("transformers", name, make, (12,), classes, vocabulary=vocabulary, main_input="input_ids")


def _image(name: str, model: str, config: str, options: dict[str, Any]) -> Entry:
    make = partial(_make, model, config, options)
    return Entry("transformers", name, make, (3, 64, 64), options["num_labels"], main_input="pixel_values")


def _audio(name: str, model: str, config: str, options: dict[str, Any]) -> Entry:
    make = partial(_make, model, config, options)
    return Entry("transformers", name, make, (4000,), options["num_labels"], main_input="input_values")
