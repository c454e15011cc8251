"""bf16 runs: an emulated curve, and how far from float32 a bf16 run may lie.

README.md has the derivation. In short: bf16 has 8 significant bits, so rounding to nearest changes a number by
at most its 2^-8th part. `Signs` puts in place of every rounding the largest random change of that size, +-2^-8
with equal chance, forward and backward, and trains. The losses of such runs scatter around the float32 loss;
a run whose roundings are smaller than these scatters less. The tolerance is the width that sums of bounded,
independent, centred errors leave with a probability under 1e-9 (Hoeffding).
"""

import math

import torch

import forward
import training
from modelfiles import load

UNIT_ROUNDOFF = 2.0**-8
CHANCE = 1e-9
WIDTH = math.sqrt(2 * math.log(2 / CHANCE))
"""In standard deviations: P(|error| > WIDTH sigma) < 2 exp(-WIDTH^2 / 2) = CHANCE."""
RUNS = 32


class Exact:
    """No rounding: the float32 curve again, which checks forward.py against transformers."""

    def activation(self, x):
        return x

    def passed(self, x):
        return x

    def weight(self, name, w):
        return w


class Change(torch.autograd.Function):
    """Multiplies or rounds on the way forward, and the gradient on the way back, each where asked."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        return there(x) if there else x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.back(gradient), None, None


def to_bf16(x):
    return x.bfloat16().float()


class Bf16:
    """Rounding to nearest even, as the hardware does it."""

    def activation(self, x):
        return Change.apply(x, to_bf16, to_bf16)

    def passed(self, x):
        return Change.apply(x, None, to_bf16)

    def weight(self, name, w):
        return Change.apply(w, to_bf16, to_bf16)


class Signs:
    """A random relative change of exactly +-2^-8 wherever a bf16 run rounds.

    A weight keeps its change for the whole run: it hardly moves, so its rounding errors do not average out.
    """

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = {}

    def factor(self, x):
        signs = torch.randint(0, 2, x.shape, generator=self.generator) * 2 - 1
        return 1 + UNIT_ROUNDOFF * signs

    def noise(self, x):
        return x * self.factor(x)

    def activation(self, x):
        return Change.apply(x, self.noise, self.noise)

    def passed(self, x):
        return Change.apply(x, None, self.noise)

    def weight(self, name, w):
        if name not in self.weights:
            self.weights[name] = self.factor(w)
        return Change.apply(w, lambda x: x * self.weights[name], self.noise)


def read_weights(model_folder, run, adapter):
    """(weights, trained tensors): leaves of their own for every run."""
    model = load(model_folder)
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    weights = forward.Weights(tensors, model.config)
    if model.config.model_type == "llama":
        weights.inv_freq = model.model.rotary_emb.inv_freq.clone()
    if run.method == "full":
        trained = list(tensors.values())
    else:
        saved = training.load_adapter_tensors(adapter)
        prefix, suffix = "base_model.model.", ".lora_A.weight"
        for name in sorted(saved):
            if name.endswith(suffix):
                module = name.removeprefix(prefix).removesuffix(suffix)
                weights.lora[module] = (saved[name], saved[name.replace("lora_A", "lora_B")])
        weights.frozen, weights.scale = True, run.alpha / run.rank
        trained = [factor for pair in weights.lora.values() for factor in pair]
    for tensor in trained:
        tensor.requires_grad_()
    return weights, trained


def train_with(rounding, model_folder, run, adapter, examples, valid):
    weights, trained = read_weights(model_folder, run, adapter)
    compute = {"gpt2": forward.gpt2, "llama": forward.llama}[weights.config.model_type]

    def loss_sum(batch):
        return training.token_loss_sum(compute(weights, rounding, batch), batch)

    return training.train(trained, loss_sum, examples, valid, run)


def numbers(curve):
    """Every number of a curve that has a tolerance, in one order."""
    losses = [step["loss"] for step in curve["steps"]]
    norms = [step["grad_norm"] for step in curve["steps"]]
    return torch.tensor(losses + norms + [curve["eval_before"]["loss"], curve["eval_after"]["loss"]], dtype=torch.float64)


def bf16_run(model_folder, run, adapter, examples, valid, single):
    """The emulated bf16 curve and absolute tolerances around the float32 one."""
    arguments = (model_folder, run, adapter, examples, valid)
    reference = numbers(single)
    exact = numbers(train_with(Exact(), *arguments))
    assert ((exact - reference).abs() / reference).max() < 2e-5, "forward.py and transformers differ"
    scatter = torch.stack([numbers(train_with(Signs(seed), *arguments)) - reference for seed in range(RUNS)])
    tolerance = WIDTH * scatter.pow(2).mean(0).sqrt()
    emulated_curve = train_with(Bf16(), *arguments)
    emulated = numbers(emulated_curve)
    distance = (emulated - reference).abs() / tolerance
    assert distance.max() < 1, distance
    count = run.steps
    return {
        "unit_roundoff": UNIT_ROUNDOFF, "width": WIDTH, "runs": RUNS,
        "loss": emulated[:count].tolist(), "grad_norm": emulated[count : 2 * count].tolist(),
        "eval_before": emulated[-2].item(), "eval_after": emulated[-1].item(),
        "tolerance": {
            "loss": tolerance[:count].tolist(), "grad_norm": tolerance[count : 2 * count].tolist(),
            "eval_before": tolerance[-2].item(), "eval_after": tolerance[-1].item(),
        },
    }


def describe(run):
    bf16 = run["bf16"]
    rows = [
        f"{step['loss']:.4f}{bf16_loss - step['loss']:+.4f} (+-{tolerance:.4f})"
        for step, bf16_loss, tolerance in zip(run["steps"], bf16["loss"], bf16["tolerance"]["loss"])
    ]
    return f"{rows[0]} ... {rows[-1]}, eval {bf16['eval_after']:.4f} (+-{bf16['tolerance']['eval_after']:.4f})"
