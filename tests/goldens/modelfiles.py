"""Model folders: random weights, the two config spellings, old and sharded copies."""

import copy
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from texts import save_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OLD_VERSION = "4.40.0"


def randomize(model, seed):
    """Weights with a spread that keeps logits far from flat; norms near one, biases not zero."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = rng.standard_normal(tuple(parameter.shape))
            leaf = name.rsplit(".", 2)
            norm = parameter.dim() == 1 and name.endswith("weight")
            if norm:
                values = 1.0 + 0.2 * noise
            elif parameter.dim() == 1:
                values = 0.1 * noise
            elif leaf[-2] in ("wte", "embed_tokens", "lm_head"):
                values = 0.25 * noise
            elif leaf[-2] == "wpe":
                values = 0.1 * noise
            else:
                values = 0.15 * noise
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def write_json(path, value, indent=2):
    """Sorted keys; a list of plain numbers on one line."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)
    text = re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    assert json.loads(text) == value
    path.write_text(text + "\n", encoding="utf-8")


def old_spelling(config, drops):
    """The same config as transformers 4 wrote it."""
    old = copy.deepcopy(config)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = OLD_VERSION
    parameters = old.pop("rope_parameters", None)
    if parameters is not None:
        old["rope_theta"] = parameters.pop("rope_theta")
        old["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    for key in drops:
        old.pop(key, None)
    return old


def load(folder, dtype=torch.float32, attention="eager"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    model.config._name_or_path = ""
    return model.eval()


def load_with_config(folder, config_name):
    """Load the folder's weights under another of its config files."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for file in folder.iterdir():
            shutil.copy(file, scratch / file.name)
        shutil.copy(folder / config_name, scratch / "config.json")
        return load(scratch)


def write_model(case, folder):
    """Save a case's model folder; returns the tokenizer and the names of its config files."""
    folder.mkdir(parents=True)
    torch.manual_seed(case.seed)
    model = case.family(copy.deepcopy(case.config))
    randomize(model, case.seed)
    model.to(DTYPES[case.dtype]).save_pretrained(folder)
    if case.old_config_main:
        add_old_buffers(folder / "model.safetensors", model)
    tokenizer = save_tokenizer(case.tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    old = old_spelling(config, case.old_config_drops)
    main, other, other_name = config, old, "config.v4.json"
    if case.old_config_main:
        main, other, other_name = old, config, "config.v5.json"
    write_json(folder / "config.json", main)
    write_json(folder / other_name, other)
    check_same(load(folder), load_with_config(folder, other_name))
    return tokenizer, ["config.json", other_name]


def add_old_buffers(path, model):
    """Early Llama files carry each layer's rotary frequencies among the weights; nothing reads them today."""
    tensors = load_file(path)
    for layer in range(model.config.num_hidden_layers):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = model.model.rotary_emb.inv_freq.clone()
    save_file(tensors, path, metadata={"format": "pt"})


def check_differs(folder, key, value):
    """The config's `key` must matter for the numbers: another value gives other logits."""
    config = json.loads((folder / "config.json").read_text())
    assert config[key] != value
    other = load(folder)
    ids = torch.arange(32)[None] * 5 % 320
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        shutil.copy(folder / "model.safetensors", scratch / "model.safetensors")
        write_json(scratch / "config.json", config | {key: value})
        with torch.no_grad():
            change = (load(scratch)(ids).logits - other(ids).logits).abs().max().item()
    assert change > 0.05, (key, change)


def check_same(left, right):
    """Two ways of reading must give one model, bit for bit."""
    ids = torch.arange(48)[None] * 5 % 320
    with torch.no_grad():
        assert torch.equal(left(ids).logits, right(ids).logits)


def copy_small_files(source, target):
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if "safetensors" not in file.name:
            shutil.copy(file, target / file.name)


def write_gpt2_noprefix(source, target):
    """The spelling of the first GPT-2 files: no `transformer.` prefix, causal masks among the weights."""
    copy_small_files(source, target)
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    positions = config["n_positions"]
    for layer in range(config["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(1, 1, positions, positions))
    tensors.pop("lm_head.weight", None)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    check_same(load(source), load(target))


def write_sharded(source, target):
    copy_small_files(source, target)
    with tempfile.TemporaryDirectory() as scratch:
        load(source).save_pretrained(scratch, max_shard_size="20KB")
        for file in sorted(Path(scratch).iterdir()):
            if "safetensors" in file.name:
                shutil.copy(file, target / file.name)
    assert (target / "model.safetensors.index.json").exists()
    check_same(load(source), load(target))
