"""Language models of a size for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from espo_env.tokenizer import Tokenizer


def tiny_qwen2(vocab_size: int, **sizes: Any) -> Qwen2Config:
    """Two layers of width 32, a context of 64 tokens and tied embeddings, where ``sizes`` say nothing else."""
    defaults = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": None,
    }
    return Qwen2Config(vocab_size=vocab_size, **(defaults | sizes))


def save_tiny_model(folder: Path, tokenizer: Tokenizer, spare_tokens: int = 0, **sizes: Any) -> Path:
    """A folder with an untrained model and its tokenizer; the embedding has so many rows too many."""
    torch.manual_seed(0)
    config = tiny_qwen2(tokenizer.vocab_size + spare_tokens, eos_token_id=tokenizer.eos_token_id, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
