"""Writes a random checkpoint in the layout of `ibm/MoLFormer-XL-both-10pct`: names, shapes, tokenizer files."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ldm_ray.chem.molformer import orthogonal_features

PUBLISHED: dict[str, Any] = {
    "architectures": ["MolformerForMaskedLM"], "model_type": "molformer", "vocab_size": 2362, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 768, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "embedding_dropout_prob": 0.2, "max_position_embeddings": 202,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "linear_attention_eps": 1e-6, "num_random_features": 32,
    "feature_map_kernel": "relu", "deterministic_eval": False, "pad_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
SMALL = PUBLISHED | {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "num_random_features": 5,
}  # fmt: skip
SPECIAL = ["<bos>", "<eos>", "<pad>", "<mask>"]
TOKENS = [
    "C", "c", "(", ")", "1", "O", "=", "N", "2", "n", "3", "[O-]", "Cl", "Br", "F", "S", "s", "o", "#", "4", "-", "/",
    "\\", "[N+]", "[nH]", "P", "I", ".", "[13CH3]", "5", "B",
]  # fmt: skip


def published_names(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the published checkpoint."""
    vocabulary, size, wide = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    names: dict[str, tuple[int, ...]] = {"molformer.embeddings.word_embeddings.weight": (vocabulary, size)}

    def add(name: str, *shape: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = shape, shape[:1]

    for i in range(config["num_hidden_layers"]):
        layer = f"molformer.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            add(f"{layer}.attention.self.{name}", size, size)
        head_size = size // config["num_attention_heads"]
        names[f"{layer}.attention.self.feature_map.weight"] = (head_size, config["num_random_features"])
        add(f"{layer}.attention.output.dense", size, size)
        add(f"{layer}.attention.output.LayerNorm", size)
        add(f"{layer}.intermediate.dense", wide, size)
        add(f"{layer}.output.dense", size, wide)
        add(f"{layer}.output.LayerNorm", size)
    add("molformer.LayerNorm", size)
    add("lm_head.transform.dense", size, size)
    add("lm_head.transform.LayerNorm", size)
    names["lm_head.decoder.weight"] = (vocabulary, size)
    return names


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in published_names(config).items():
        if name.endswith("feature_map.weight"):
            tensors[name] = orthogonal_features(shape[0], shape[1], generator)
        elif "LayerNorm" in name:
            tensors[name] = (1.0 if name.endswith("weight") else 0.0) + 0.1 * torch.randn(shape, generator=generator)
        else:
            tensors[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    room = config["vocab_size"] - len(SPECIAL) - 1
    tokens = [*TOKENS, *(f"[unused{i}]" for i in range(room))][:room]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *tokens, "<unk>"])}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder
