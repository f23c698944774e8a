"""What is measured: networks that grow in one way each, with random weights, and their example inputs."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from benchmarks.networks import resnet18
from dither import batchnorm
from dither.training import LeNet5BatchNorm

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a configuration is enough
HEAD = 64  # channels of an attention head
TINY_LLAMA = {"width": 2048, "layers": 22, "hidden": 5632, "heads": 32, "kv_heads": 4, "vocab": 32000}
LLAMA_7B = {"width": 4096, "layers": 32, "hidden": 11008, "heads": 32, "kv_heads": 32, "vocab": 32000}


def decoder(
    width: int,
    layers: int,
    *,
    tokens: int = 16,
    vocab: int = 1000,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """A Llama of transformers, and one row of tokens.

    The mask is given: the model would look into the tokens for the ends of packed sequences, which have no values on
    the meta device.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = heads or max(width // HEAD, 1)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=hidden or 8 * width // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=max(tokens, 2048),
        use_cache=False,
    )
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # never a copy in float32 beside it
        try:
            net = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(1, 1, -1, -1)
        return net, {"input_ids": torch.arange(tokens)[None] % vocab, "attention_mask": mask}


def convnet(width: int, pixels: int = 32) -> tuple[nn.Module, torch.Tensor]:
    """A ResNet-18, and one image."""
    return resnet18(width).eval(), torch.randn(1, 3, pixels, pixels)


def doubtful() -> nn.Module:
    """LeNet-5 whose BatchNorms are drawn, fitted to noise: what is drawn does not change the cost."""
    net = batchnorm.convert(LeNet5BatchNorm())
    batchnorm.fit(net, [torch.randn(16, 1, 28, 28) for _ in range(4)])
    return net.eval()
