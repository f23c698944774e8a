"""What is analysed: networks that both can be asked about, with random weights. Entries as the zoo has them."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from torch import nn

from benchmarks.networks import resnet18, resnet50
from studies.networks import vgg16
from zoo.networks import Entry

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a configuration is enough

IMAGES, BERT = {"num_labels": 1000}, {"num_labels": 2, "vocab_size": 30522}
VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
BERT_SMALL = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
LLAMA = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 672}
WORDS = {"vocab_size": 1000, "use_cache": False}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def of_transformers(model: str, config: str, **settings: Any) -> nn.Module:
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**settings))


def images(name: str, make: Any, pixels: int, classes: int) -> Entry:
    return Entry("benchmarks", name, make, (3, pixels, pixels), classes)


def llama(name: str, settings: dict[str, int], key_heads: int) -> Entry:
    settings = {**settings, "num_key_value_heads": key_heads}
    make = partial(of_transformers, "LlamaForCausalLM", "LlamaConfig", **settings, **WORDS)
    vocabulary = WORDS["vocab_size"]
    return Entry("benchmarks", name, make, (16,), vocabulary, vocabulary=vocabulary, main_input="input_ids")


VIT = partial(of_transformers, "ViTForImageClassification", "ViTConfig", **VIT_S, **IMAGES)
BERT_CLASSIFIER = partial(of_transformers, "BertForSequenceClassification", "BertConfig", **BERT_SMALL, **BERT)
FULL = (
    images("VGG-16, 32x32", vgg16, 32, 10),
    images("ResNet-18, 32x32", partial(resnet18, 64), 32, 10),
    images("ResNet-50, 224x224", resnet50, 224, 1000),
    Entry("benchmarks", "ViT-S/16, 224x224", VIT, (3, 224, 224), 1000, main_input="pixel_values"),
    Entry("benchmarks", "BERT-small, 32 tokens", BERT_CLASSIFIER, (32,), 2, vocabulary=30522, main_input="input_ids"),
    llama("Llama, 4 layers, 4 heads", LLAMA, 4),
    llama("Llama, 4 layers, 4 heads, 2 of keys", LLAMA, 2),
)
SMOKE = (images("ResNet-18 of width 4", partial(resnet18, 4), 32, 10), llama("Llama, 1 layer", TINY, 2))
SUBJECTS = {entry.name: entry for entry in (*FULL, *SMOKE)}
