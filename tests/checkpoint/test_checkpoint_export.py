"""The exported folder is judged by plain transformers: same weights, same logits, nothing missing, nothing extra."""

import json
import logging
import shutil
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from headrace.checkpoint import export, export_checkpoint, save_checkpoint
from headrace.errors import RequestError, RunError

SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
CONFIGS = {
    "llama": SMALL,
    "gpt2": {
        "vocab_size": 61,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "n_positions": 32,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    "mixtral": {**SMALL, "num_local_experts": 3},
    "qwen3": {**SMALL, "tie_word_embeddings": True},
    "gemma2": SMALL,
    "gpt_neox": {**SMALL, "hidden_size": 16},
    "phi3": {**SMALL, "pad_token_id": 0, "eos_token_id": 1},
}
TIED = ("gpt2", "qwen3", "gemma2")


def save_model(model_type, run_dir, dtype=torch.float32):
    """A plain model with random weights, norms and biases included, and its checkpoint with moments beside."""
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    state = dict(model.named_parameters())
    moments = {f"optimizer.exp_avg.{name}": torch.zeros_like(parameter) for name, parameter in state.items()}
    return model, save_checkpoint(run_dir, 1, state | moments, {"model_config": config.to_dict()}, keep=1)


def load_plainly(folder, caplog):
    """Whatever transformers has to say while it loads counts as a failure."""
    logging.getLogger("transformers").addHandler(caplog.handler)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("transformers")] == []
    assert {key: found for key, found in report.items() if found} == {}
    return model.eval()


def assert_same_model(loaded, model):
    left, right = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert left.keys() == right.keys()
    for name, parameter in right.items():
        assert left[name].dtype == parameter.dtype
        assert torch.equal(left[name], parameter), name
    tokens = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def stored_names(folder):
    names = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names += tensors.keys()
    return sorted(names)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_plain_transformers_loads_the_same_model(model_type, tmp_path, caplog):
    model, checkpoint = save_model(model_type, tmp_path / "run")
    out = export_checkpoint(checkpoint, tmp_path / "deep" / "out", None)
    loaded = load_plainly(out, caplog)
    assert_same_model(loaded, model)
    is_tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert is_tied == (model_type in TIED)
    assert {file.name for file in out.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("model_type", CONFIGS)
def test_many_shards_hold_what_save_pretrained_writes(model_type, tmp_path, caplog):
    """With no room for two layers in a shard, each block is a file; names are those of transformers' own writer."""
    model, checkpoint = save_model(model_type, tmp_path / "run")
    with mock.patch.object(export, "_SHARD_BYTES", 1):
        out = export_checkpoint(checkpoint, tmp_path / "out", None)
    assert_same_model(load_plainly(out, caplog), model)
    model.save_pretrained(tmp_path / "reference")
    assert stored_names(out) == stored_names(tmp_path / "reference")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == stored_names(out)
    assert len(set(index["weight_map"].values())) > 3


def test_experts_are_published_one_by_one(tmp_path):
    _, checkpoint = save_model("mixtral", tmp_path / "run")
    names = stored_names(export_checkpoint(checkpoint, tmp_path / "out", None))
    assert "model.layers.1.block_sparse_moe.experts.2.w1.weight" in names


def test_no_more_than_a_layer_is_in_memory_where_a_shard_has_room_for_one(tmp_path):
    model, checkpoint = save_model("llama", tmp_path / "run")
    layer_bytes = sum(p.numel() * 4 for p in model.model.layers[0].parameters())
    held = []

    def load_state(folder, into):
        held.append(sum(tensor.numel() * 4 for tensor in into.values()))

    with mock.patch.object(export, "_SHARD_BYTES", layer_bytes), mock.patch.object(export, "load_state", load_state):
        export_checkpoint(checkpoint, tmp_path / "out", None)
    assert max(held) == layer_bytes
    assert sum(held) == sum(p.numel() * 4 for p in model.parameters())


def test_the_type_of_the_tensors_is_the_checkpoints(tmp_path, caplog):
    model, checkpoint = save_model("llama", tmp_path / "run", torch.bfloat16)
    out = export_checkpoint(checkpoint, tmp_path / "out", None)
    assert_same_model(load_plainly(out, caplog), model)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_tokenizer_comes_along(tmp_path):
    _, checkpoint = save_model("llama", tmp_path / "run")
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "corpus.txt").write_text("not the tokenizer's")
    out = export_checkpoint(checkpoint, tmp_path / "out", tmp_path / "tokenizer")
    assert AutoTokenizer.from_pretrained(out)("b")["input_ids"] == [1]
    assert not (out / "corpus.txt").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    _, checkpoint = save_model("llama", tmp_path / "run")
    (tmp_path / "out").mkdir()
    assert export_checkpoint(checkpoint, tmp_path / "out", None) == tmp_path / "out"
    with pytest.raises(RequestError, match=r"out exists and is not empty; choose another folder"):
        export_checkpoint(checkpoint, tmp_path / "out", None)


def test_what_stops_an_export_leaves_nothing(tmp_path):
    _, checkpoint = save_model("llama", tmp_path / "run")
    with (
        mock.patch("shutil.disk_usage", return_value=mock.Mock(free=10_000)),
        pytest.raises(RequestError, match=r"no room in .*out: 31.+ kB are needed and 10 kB are free"),
    ):
        export_checkpoint(checkpoint, tmp_path / "out", None)
    with pytest.raises(RequestError, match=r"no_tokenizer has no tokenizer files"):
        export_checkpoint(checkpoint, tmp_path / "out", tmp_path / "no_tokenizer")
    with (
        mock.patch.object(export, "save_file", side_effect=OSError(28, "No space left on device")),
        pytest.raises(RunError, match=r"export to .*out stopped and left nothing: .*No space left"),
    ):
        export_checkpoint(checkpoint, tmp_path / "out", None)
    shutil.rmtree(checkpoint)
    with pytest.raises(RequestError, match="there is no such folder"):
        export_checkpoint(checkpoint, tmp_path / "out", None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_checkpoint_without_one_of_the_models_tensors_is_refused(tmp_path):
    config = AutoConfig.for_model("llama", **SMALL)
    state = {"model.embed_tokens.weight": torch.zeros(61, 16)}
    checkpoint = save_checkpoint(tmp_path / "run", 1, state, {"model_config": config.to_dict()}, keep=1)
    with pytest.raises(RequestError, match=r"another model: model\.layers\.0\.self_attn\.q_proj\.weight is missing"):
        export_checkpoint(checkpoint, tmp_path / "out", None)
