"""MoLFormer against a plain quadratic attention in float64, on a random checkpoint in the published layout."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from ldm_ray.chem.embedding import build_encoder
from ldm_ray.chem.molformer import Molformer, MolformerConfig
from ldm_ray.chem.molformer_encoder import load_molformer, plain_smiles
from ldm_ray.chem.smiles_tokens import SmilesTokenizer
from ldm_ray.errors import QueryError, SettingsError
from ldm_ray.settings import EncoderSettings
from tests.molformer_checkpoint import PUBLISHED, SMALL, published_names, write_checkpoint

SMILES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "Clc1ccc(Br)cc1", "O=C([O-])[13CH3]", "C" * 60]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small", SMALL, seed=1)


@pytest.fixture(scope="module")
def settings(checkpoint: Path) -> EncoderSettings:
    return EncoderSettings(kind="molformer", checkpoint=str(checkpoint))


def reference(tensors: dict[str, Tensor], config: dict[str, int], ids: list[int]) -> np.ndarray:
    """One molecule, no padding, no batch: every pair of tokens weighted by the product of its features, float64."""
    w = {name.removeprefix("molformer."): value.double().numpy() for name, value in tensors.items()}
    heads, size = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    n = len(ids)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def turn(vector: np.ndarray, position: int) -> np.ndarray:
        """Rotate the pair (i, i + size / 2) by position / 10000^(2i / size)."""
        out = np.empty(size)
        for i in range(size // 2):
            angle = position / 10_000 ** (2 * i / size)
            a, b = vector[i], vector[i + size // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    hidden = w["embeddings.word_embeddings.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{layer}"
        q, k, v = (linear(hidden, f"{p}.attention.self.{name}") for name in ("query", "key", "value"))
        features = w[f"{p}.attention.self.feature_map.weight"]
        mixed = np.zeros_like(hidden)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            phi_q = [np.maximum(turn(q[i, own], i) @ features, 0) for i in range(n)]
            phi_k = [np.maximum(turn(k[i, own], i) @ features, 0) for i in range(n)]
            for i in range(n):
                weights = np.array([phi_q[i] @ phi_k[j] for j in range(n)])
                mixed[i, own] = weights @ v[:, own] / max(weights.sum(), 1e-6)
        hidden = norm(hidden + linear(mixed, f"{p}.attention.output.dense"), f"{p}.attention.output.LayerNorm")
        wide = linear(hidden, f"{p}.intermediate.dense")
        wide = 0.5 * wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        hidden = norm(hidden + linear(wide, f"{p}.output.dense"), f"{p}.output.LayerNorm")
    return norm(hidden, "LayerNorm").mean(axis=0)


def test_equals_the_quadratic_reference(checkpoint: Path, settings: EncoderSettings) -> None:
    tensors = safetensors.torch.load_file(checkpoint / "model.safetensors")
    tokenizer = SmilesTokenizer.from_folder(checkpoint)
    vectors = build_encoder(settings).encode(SMILES)
    expected = [reference(tensors, SMALL, tokenizer.encode(plain_smiles(text))) for text in SMILES]
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
    model = load_molformer(MolformerConfig.from_json(SMALL), checkpoint / "model.safetensors").double()
    ids, mask = map(torch.from_numpy, tokenizer.pad([tokenizer.encode(plain_smiles(text)) for text in SMILES]))
    np.testing.assert_allclose(model.embed(ids, mask).numpy(), expected, atol=1e-12)


def test_a_molecule_has_one_vector_whatever_its_neighbours(settings: EncoderSettings) -> None:
    encoder = build_encoder(settings)
    together = encoder.encode(SMILES)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([text]) for text in SMILES]), atol=2e-6)
    order = [3, 0, 5, 1, 4, 2]
    np.testing.assert_allclose(encoder.encode([SMILES[i] for i in order]), together[order], atol=2e-6)
    np.testing.assert_array_equal(encoder.encode(SMILES), together)
    np.testing.assert_array_equal(build_encoder(settings).encode(SMILES), together)
    assert np.abs(together[0] - together[1]).max() > 0.05
    np.testing.assert_array_equal(encoder.encode(["C[C@H](N)C(=O)O"]), encoder.encode(["NC(C)C(O)=O"]))


def test_padding_has_no_weight(checkpoint: Path) -> None:
    model = load_molformer(MolformerConfig.from_json(SMALL), checkpoint / "model.safetensors")
    ids = torch.tensor([[0, 5, 6, 7, 1]])
    padded = torch.tensor([[0, 5, 6, 7, 1, 2, 2, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(model.embed(padded, mask), model.embed(ids, torch.ones_like(ids)), atol=2e-6, rtol=0)


def test_every_published_tensor_is_loaded_by_name(checkpoint: Path, tmp_path: Path) -> None:
    """The published names and shapes, without the head, are exactly ours; values are unchanged."""
    with torch.device("meta"):
        full = Molformer(MolformerConfig.from_json(PUBLISHED))
    ours = {f"molformer.{name}": tuple(value.shape) for name, value in full.state_dict().items()}
    published = published_names(PUBLISHED)
    assert len(published) == 212
    assert ours == {name: shape for name, shape in published.items() if not name.startswith("lm_head.")}
    assert sum(math.prod(shape) for shape in ours.values()) == 44_375_040 + 12 * 64 * 32
    weights = checkpoint / "model.safetensors"
    stored = safetensors.torch.load_file(weights)
    model = load_molformer(MolformerConfig.from_json(SMALL), weights)
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[f"molformer.{name}"]), name
    torch.save(stored, tmp_path / "pytorch_model.bin")
    again = load_molformer(MolformerConfig.from_json(SMALL), tmp_path / "pytorch_model.bin")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_checkpoint_that_does_not_fit_is_said(checkpoint: Path, tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(checkpoint / "model.safetensors")
    config = MolformerConfig.from_json(SMALL)
    name = "molformer.encoder.layer.1.output.dense.bias"
    for change, message in [
        ({name: None}, rf"tensor {name} must have shape \(24,\); got None"),
        ({name: torch.zeros(7)}, rf"tensor {name} must have shape \(24,\); got \(7,\)"),
        ({"molformer.more": torch.zeros(7)}, r"tensor molformer.more must have shape None; got \(7,\)"),
    ]:
        changed = {key: value for key, value in (stored | change).items() if value is not None}
        safetensors.torch.save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(SettingsError, match=message):
            load_molformer(config, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match="feature_map_kernel must be 'relu'; the checkpoint's config has 'elu'"):
        MolformerConfig.from_json(SMALL | {"feature_map_kernel": "elu"})  # type: ignore[operator]
    with pytest.raises(SettingsError, match="is neither"):
        build_encoder(EncoderSettings(kind="molformer", checkpoint=str(tmp_path / "nowhere"))).encode(["C"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="must hold tokenizer.json or vocab.json"):
        build_encoder(EncoderSettings(kind="molformer", checkpoint=str(tmp_path / "empty"))).encode(["C"])


def test_the_tokenizer(checkpoint: Path, settings: EncoderSettings) -> None:
    tokenizer = SmilesTokenizer.from_folder(checkpoint)
    named = {number: token for token, number in tokenizer.vocabulary.items()}
    tokens = [named[number] for number in tokenizer.encode("C[C@H](Cl)c1ccc%12Br")]
    assert tokens[0] == "<bos>"
    assert tokens[-1] == "<eos>"
    assert tokens[1:4] == ["C", "<unk>", "("]
    assert named[tokenizer.encode("Br")[1]] == "Br"
    (checkpoint.parent / "vocabulary").mkdir(exist_ok=True)
    (checkpoint.parent / "vocabulary" / "vocab.json").write_text(json.dumps(tokenizer.vocabulary))
    assert SmilesTokenizer.from_folder(checkpoint.parent / "vocabulary") == tokenizer
    with pytest.raises(QueryError, match="at most 202 tokens for MoLFormer; .* has 402"):
        build_encoder(settings).encode(["C" * 400])
    with pytest.raises(QueryError, match="RDKit can parse.*; got 'C1CC'"):
        build_encoder(settings).encode(["C1CC"])


def test_name_and_revision_say_which_weights(checkpoint: Path, tmp_path: Path, settings: EncoderSettings) -> None:
    other = write_checkpoint(tmp_path / "small", SMALL, seed=2)
    one, two = (build_encoder(EncoderSettings(kind="molformer", checkpoint=str(f))) for f in (checkpoint, other))
    assert one.name == two.name == "molformer-small"
    assert one.revision != two.revision
    assert build_encoder(EncoderSettings(kind="molformer")).revision == "7b12d946c181a37f6012b9dc3b002275de070314"


def test_any_encoder_of_transformers_works_from_a_folder(tmp_path: Path) -> None:
    """A tiny random RoBERTa with a tokenizer of its own, as ChemBERTa has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"CNOcno()=1"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    RobertaModel(RobertaConfig(vocab_size=len(vocabulary), pad_token_id=1, **sizes)).save_pretrained(tmp_path)
    encoder = build_encoder(EncoderSettings(kind="hub", checkpoint=str(tmp_path), revision="r1"))
    vectors = encoder.encode(["CCO", "c1ccccc1O"])
    assert vectors.shape == (2, encoder.dim) == (2, 12)
    np.testing.assert_allclose(encoder.encode(["c1ccccc1O"])[0], vectors[1], atol=1e-5)
