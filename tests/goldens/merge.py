"""What PEFT's merge_and_unload makes of small models, for the test of `finetune export`.

    python merge.py        writes data/merged

Two adapters are those of other cases; two are made here: rank-stabilized scaling, and a rank and an alpha of their
own for some layers. Only layers that were merged into are kept.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from modelfiles import load

DATA = Path(__file__).resolve().parent / "data"
OUT = DATA / "merged"


def adapter(case, **options):
    """An adapter with random A and B on one of the models."""
    torch.manual_seed(7)
    model = get_peft_model(load(DATA / case / "model"), LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = OUT / case / "adapter"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = ""
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2) + "\n")


def merged(case, adapter):
    base = {name: tensor.clone() for name, tensor in load(DATA / case / "model").state_dict().items()}
    model = PeftModel.from_pretrained(load(DATA / case / "model"), DATA / adapter).merge_and_unload(safe_merge=True)
    changed = {name: tensor.contiguous() for name, tensor in model.state_dict().items()
               if not torch.equal(tensor, base[name])}
    assert changed, (case, adapter)
    save_file(changed, OUT / ("-".join(Path(adapter).parts[:2]) + ".safetensors"))
    print(case, adapter, len(changed), "tensors")


def main():
    OUT.mkdir(exist_ok=True)
    adapter("gpt2", r=4, lora_alpha=6, use_rslora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"])
    adapter("llama2", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 3})
    merged("llama3", "llama3/lora-all-linear/adapter_final")
    merged("gpt2", "gpt2/lora-all-linear/adapter_final")
    merged("gpt2", "merged/gpt2/adapter")
    merged("llama2", "merged/llama2/adapter")


if __name__ == "__main__":
    main()
