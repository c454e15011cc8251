"""Op goldens: outputs and gradients in float64 torch, written as the op table names things.

Every float input is exactly a float32 number, so that an f32 and an f64 implementation start from the same values.
"""

import math
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import attention
import philox
from modelfiles import write_json


class Goldens:
    """Collects entries; each tensor is stored as `<entry>.<name>`."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.entries, self.tensors = [], {}

    def normal(self, *shape, scale=1.0, shift=0.0):
        values = (scale * self.rng.standard_normal(shape) + shift).astype(np.float32)
        return torch.from_numpy(np.asarray(values, dtype=np.float64))

    def keep(self, entry, name, tensor):
        key = f"{entry}.{name}"
        assert key not in self.tensors, key
        self.tensors[key] = tensor.detach().clone().contiguous()
        return key

    def add(self, entry, op, compute, inputs, attrs=None, direct=(), note=None):
        """One application of `op`. `compute(inputs)` gives {result: tensor}.

        Gradients flow from random upstream gradients of the float results that are not in `direct`.
        """
        inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        floats = [name for name, tensor in inputs.items() if tensor.is_floating_point()]
        for name in floats:
            inputs[name].requires_grad_()
        outputs = compute(inputs)
        flowing = {
            name: tensor for name, tensor in outputs.items() if name not in direct and tensor.requires_grad
        }
        upstream = {name: self.normal(*tensor.shape) for name, tensor in flowing.items()}
        gradients = {}
        if flowing:
            total = sum((tensor * upstream[name]).sum() for name, tensor in flowing.items())
            found = torch.autograd.grad(total, [inputs[name] for name in floats], allow_unused=True)
            gradients = {name: value for name, value in zip(floats, found) if value is not None}
        record = {
            "name": entry, "op": op, "attrs": attrs or {},
            "inputs": [{"name": name, "tensor": self.keep(entry, name, as_stored(tensor))} for name, tensor in inputs.items()],
            "outputs": [{"name": name, "tensor": self.keep(entry, f"out.{name}", as_stored(tensor))} for name, tensor in outputs.items()],
            "upstream": {name: self.keep(entry, f"upstream.{name}", tensor) for name, tensor in upstream.items()},
            "gradients": {name: self.keep(entry, f"grad.{name}", tensor) for name, tensor in gradients.items()},
        }
        if note:
            record["note"] = note
        self.entries.append(record)


def as_stored(tensor):
    """Indices and counters are u32 in programs; truth values stay truth values."""
    return tensor.to(torch.uint32) if tensor.dtype == torch.int64 else tensor


def elementwise(goldens):
    unary = {
        "neg": torch.neg, "abs": torch.abs, "exp": torch.exp, "sin": torch.sin, "cos": torch.cos,
        "tanh": torch.tanh, "erf": torch.erf,
    }
    for op, function in unary.items():
        goldens.add(op, op, lambda i, f=function: {"out": f(i["x"])}, {"x": goldens.normal(3, 5)})
    for op, function in {"log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt}.items():
        x = goldens.normal(3, 5).abs() + 0.125
        goldens.add(op, op, lambda i, f=function: {"out": f(i["x"])}, {"x": x.float().double()})
    binary = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
        "max": torch.maximum, "min": torch.minimum,
    }
    for op, function in binary.items():
        inputs = {"a": goldens.normal(3, 5), "b": goldens.normal(3, 5, scale=0.3, shift=1.5)}
        goldens.add(op, op, lambda i, f=function: {"out": f(i["a"], i["b"])}, inputs)
    condition = torch.from_numpy(goldens.rng.random((3, 5)) < 0.5)
    inputs = {"cond": condition, "a": goldens.normal(3, 5), "b": goldens.normal(3, 5)}
    goldens.add("select", "select", lambda i: {"out": torch.where(i["cond"], i["a"], i["b"])}, inputs)


def reductions(goldens):
    shape = (2, 3, 4)
    for axes in ([2], [0, 2], [0, 1, 2]):
        name = "reduce_sum_" + "".join(map(str, axes))
        goldens.add(
            name, "reduce_sum", lambda i, axes=axes: {"out": i["x"].sum(axes, keepdim=True)},
            {"x": goldens.normal(*shape)}, {"axes": axes},
        )
        name = "reduce_max_" + "".join(map(str, axes))
        goldens.add(
            name, "reduce_max", lambda i, axes=axes: {"out": i["x"].amax(axes, keepdim=True)},
            {"x": goldens.normal(*shape)}, {"axes": axes},
        )
    ties = torch.tensor([[1.0, 3.0, 3.0, -1.0], [2.0, 2.0, 2.0, 2.0], [0.0, -1.0, 5.0, 4.0]], dtype=torch.float64)
    goldens.add(
        "reduce_max_ties", "reduce_max", lambda i: {"out": i["x"].amax([1], keepdim=True)}, {"x": ties}, {"axes": [1]},
        note="Equal maxima share the gradient evenly here. Any split among them is a subgradient; "
        "what every rule must keep is the sum of each row and zero at the other elements.",
    )
    goldens.add("sum_squares", "sum_squares", lambda i: {"out": (i["x"] ** 2).sum()}, {"x": goldens.normal(4, 5)})


def shapes(goldens):
    def block(i):
        return {"out": i["x"][0:2, 1:3, 2:4]}

    x = goldens.normal(2, 3, 4)
    goldens.add("reshape", "reshape", lambda i: {"out": i["x"].reshape(4, 6)}, {"x": x}, {"shape": [4, 6]})
    goldens.add("permute", "permute", lambda i: {"out": i["x"].permute(2, 0, 1)}, {"x": x}, {"perm": [2, 0, 1]})
    goldens.add(
        "broadcast", "broadcast", lambda i: {"out": i["x"].expand(2, 3, 4)}, {"x": goldens.normal(3, 1)},
        {"shape": [2, 3, 4]},
    )
    goldens.add("slice", "slice", block, {"x": x}, {"start": [0, 1, 2], "size": [2, 2, 2]})
    goldens.add(
        "pad", "pad", lambda i: {"out": F.pad(i["x"], (1, 2, 0, 1), value=0.5)}, {"x": goldens.normal(2, 3)},
        {"low": [0, 1], "high": [1, 2], "value": 0.5},
    )
    goldens.add(
        "concat", "concat", lambda i: {"out": torch.cat([i["x0"], i["x1"], i["x2"]], 1)},
        {"x0": goldens.normal(2, 1, 3), "x1": goldens.normal(2, 2, 3), "x2": goldens.normal(2, 1, 3)}, {"axis": 1},
    )


def products_and_indices(goldens):
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            a = goldens.normal(2, 5, 3) if transpose_a else goldens.normal(2, 3, 5)
            b = goldens.normal(2, 4, 5) if transpose_b else goldens.normal(2, 5, 4)

            def product(i, ta=transpose_a, tb=transpose_b):
                return {"out": (i["a"].mT if ta else i["a"]) @ (i["b"].mT if tb else i["b"])}

            name = f"matmul_{'t' if transpose_a else 'n'}{'t' if transpose_b else 'n'}"
            goldens.add(name, "matmul", product, {"a": a, "b": b}, {"transpose_a": transpose_a, "transpose_b": transpose_b})
    indices = torch.tensor([3, 0, 3, 5, 1, 9])  # 3 twice; 9 lies beyond the table of 6 rows and is taken as 5
    goldens.add(
        "gather", "gather", lambda i: {"out": i["table"][i["indices"].clamp(max=5)]},
        {"table": goldens.normal(6, 4), "indices": indices},
    )
    goldens.add(
        "scatter_add", "scatter_add",
        lambda i: {"out": i["base"].index_add(0, i["indices"].clamp(max=5), i["updates"])},
        {"base": goldens.normal(6, 4), "indices": indices, "updates": goldens.normal(6, 4)},
    )
    for start in (1, 7):  # 7 is beyond the last start that fits, 3, and is taken as that
        first = min(start, 3)
        goldens.add(
            f"dynamic_slice_{start}", "dynamic_slice", lambda i, f=first: {"out": i["x"][:, f : f + 2]},
            {"x": goldens.normal(2, 5), "start": torch.tensor(start)}, {"axis": 1, "size": 2},
        )
        goldens.add(
            f"update_slice_{start}", "update_slice",
            lambda i, f=first: {"out": torch.cat([i["base"][:, :f], i["update"], i["base"][:, f + 2 :]], 1)},
            {"base": goldens.normal(2, 5), "update": goldens.normal(2, 2), "start": torch.tensor(start)}, {"axis": 1},
        )


def norms_and_activations(goldens):
    goldens.add("softmax", "softmax", lambda i: {"out": i["x"].softmax(-1)}, {"x": goldens.normal(3, 4, 7, scale=2.0)})
    eps = 1e-5
    x, weight, bias = goldens.normal(2, 3, 8, shift=0.5), goldens.normal(8, scale=0.3, shift=1.0), goldens.normal(8)

    def rms_norm(i):
        return {"out": i["x"] * torch.rsqrt(i["x"].pow(2).mean(-1, keepdim=True) + eps) * i["weight"]}

    goldens.add("rms_norm", "rms_norm", rms_norm, {"x": x, "weight": weight}, {"eps": eps})
    goldens.add(
        "layer_norm", "layer_norm", lambda i: {"out": F.layer_norm(i["x"], (8,), i["weight"], i["bias"], eps)},
        {"x": x, "weight": weight, "bias": bias}, {"eps": eps},
    )
    kinds = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
    for kind, function in kinds.items():
        goldens.add(
            f"activation_{kind}", "activation", lambda i, f=function: {"out": f(i["x"])},
            {"x": goldens.normal(3, 8, scale=2.0)}, {"kind": kind},
        )
        goldens.add(
            f"gated_{kind}", "gated", lambda i, f=function: {"out": f(i["gate"]) * i["up"]},
            {"gate": goldens.normal(3, 8, scale=2.0), "up": goldens.normal(3, 8)}, {"kind": kind},
        )


def losses(goldens):
    targets = torch.tensor([2, 0, 6, 3, 3])
    weights = torch.tensor([1.0, 0.0, 1.0, 0.5, 2.0], dtype=torch.float64)

    def loss_sum(logits):
        return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()

    def cross_entropy(i):
        loss = loss_sum(i["logits"])
        return {"loss": loss, "dlogits": torch.autograd.grad(loss, i["logits"])[0]}

    def linear_cross_entropy(i):
        loss = loss_sum(i["x"] @ i["weight"].T)
        dx, dweight = torch.autograd.grad(loss, [i["x"], i["weight"]])
        return {"loss": loss.detach(), "dx": dx, "dweight": dweight}

    rows = {"targets": targets, "weights": weights}
    note = "dlogits (dx, dweight) are results of the op: the gradients of the loss sum."
    goldens.add(
        "cross_entropy", "cross_entropy", lambda i: {n: t.detach() for n, t in cross_entropy(i).items()},
        {"logits": goldens.normal(5, 7, scale=2.0)} | rows, note=note,
    )
    goldens.add(
        "linear_cross_entropy", "linear_cross_entropy", linear_cross_entropy,
        {"x": goldens.normal(5, 6), "weight": goldens.normal(7, 6)} | rows, note=note,
    )


def optimizer(goldens):
    """Three updates by torch.optim.AdamW, an entry each: the state before, the state after."""
    beta1, beta2, eps, decay, lr, scale = 0.9, 0.999, 1e-8, 0.1, 2.0**-7, 0.25
    param = torch.nn.Parameter(goldens.normal(3, 4))
    optimizer = torch.optim.AdamW([param], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    moments = {"m": torch.zeros(3, 4, dtype=torch.float64), "v": torch.zeros(3, 4, dtype=torch.float64)}
    for t in (1, 2, 3):
        grad = goldens.normal(3, 4)
        scalars = {"scale": scale, "lr": lr, "correction1": 1 - beta1**t, "correction2": 1 - beta2**t}
        before = {"param": param.detach().clone(), **{name: value.clone() for name, value in moments.items()}, "grad": grad}
        before |= {name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()}
        param.grad = grad * scale
        optimizer.step()
        state = optimizer.state[param]
        moments = {"m": state["exp_avg"], "v": state["exp_avg_sq"]}
        after = {"param": param.detach().clone(), **{name: value.clone() for name, value in moments.items()}}
        goldens.add(
            f"adamw_{t}", "adamw", lambda i, after=after: after, before,
            {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay},
            note="From the second update on the state before is a float64 value, not a float32 one.",
        )


def random_bits(goldens):
    """Bits by a plain Philox4x32-10, held to the published known answers in philox.py."""
    seed = torch.tensor([0xDEADBEEF, 0x12345678])
    inputs = {
        "seed": seed, "step": torch.tensor(3), "example": torch.tensor([0, 0, 7, 4000000000]),
        "position": torch.tensor([0, 1, 1, 511]),
    }
    channels, site = 6, 5

    def bits(i):
        return philox.random_bits(i["seed"], i["step"], i["example"], i["position"], channels, site)

    goldens.add("random_bits", "random_bits", lambda i: {"out": bits(i)}, inputs, {"channels": channels, "site": site})

    def dropout(i, rate):
        keep = bits(i) >= round(rate * 2**32)
        return {"out": torch.where(keep, i["x"] / (1 - rate), 0.0)}

    for rate in (0.25, 0.5):
        goldens.add(
            f"dropout_{rate}", "dropout", lambda i, rate=rate: dropout(i, rate),
            {"x": goldens.normal(4, channels)} | inputs, {"rate": rate, "site": site},
        )


def write(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    philox.check_known_answers()
    goldens = Goldens(2024)
    for part in (elementwise, reductions, shapes, products_and_indices, norms_and_activations, attention.rope,
                 attention.attention, losses, optimizer, random_bits):
        part(goldens)
    assert all(math.isfinite(t.sum()) for n, t in goldens.tensors.items() if t.is_floating_point() and ".out.lse" not in n)
    save_file(goldens.tensors, folder / "ops.safetensors")
    write_json(folder / "ops.json", {"format": 1, "tensors": "ops.safetensors", "entries": goldens.entries}, indent=1)
    print(f"ops: {len(goldens.entries)} entries")
