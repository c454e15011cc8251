"""Goldens of rotary embedding and of attention, written out from their definitions."""

import torch


def turn(x, positions, inv_freq, interleaved, inverse, scale):
    """x [B, T, H, D] with its first 2 * len(inv_freq) channels turned in pairs."""
    half = inv_freq.numel()
    angles = positions.double()[..., None, None] * inv_freq
    cos, sin = scale * angles.cos(), scale * angles.sin() * (-1 if inverse else 1)
    head, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = head[..., 0::2], head[..., 1::2]
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    else:
        first, second = head[..., :half], head[..., half:]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([turned, rest], -1)


def rope(goldens):
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 0, 1]])
    inv_freq = (1.0 / 500.0 ** (torch.arange(4) / 4.0)).float().double()
    variants = {
        "rope": ({}, inv_freq),
        "rope_scaled": ({"scale": 1.25}, inv_freq),
        "rope_part": ({}, inv_freq[:3].contiguous()),
        "rope_interleaved": ({"interleaved": True}, inv_freq),
        "rope_inverse": ({"inverse": True, "scale": 1.25}, inv_freq),
    }
    for name, (given, frequencies) in variants.items():
        attrs = {"interleaved": False, "inverse": False, "scale": 1.0} | given

        def compute(i, attrs=attrs):
            return {"out": turn(i["x"], i["positions"], i["inv_freq"].detach(), **attrs)}

        goldens.add(
            name, "rope", compute,
            {"x": goldens.normal(2, 5, 2, 8), "positions": positions, "inv_freq": frequencies}, attrs,
        )


def visible(i, queries, keys, causal, window):
    """bool [B, T, S]: whether query t of row b sees key s."""
    key = torch.arange(keys)[None, None, :]
    place = i["start"][:, None, None] + torch.arange(queries)[None, :, None]
    seen = (key < i["valid"][:, None, None]).expand(-1, queries, -1)
    if causal:
        seen = seen & (key <= place)
    if window:
        seen = seen & (key + window > place)
    if "segments" in i:
        rows = place.expand(-1, -1, 1)[..., 0].clamp(max=keys - 1)
        of_query = torch.gather(i["segments"], 1, rows)
        seen = seen & (of_query[:, :, None] == i["segments"][:, None, :])
    return seen


def attend(i, scale, causal, window):
    q, k, v = i["q"], i["k"], i["v"]
    repeat = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeat, 2), v.repeat_interleave(repeat, 2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    seen = visible(i, q.shape[1], k.shape[1], causal, window)[:, None]
    hidden = scores.masked_fill(~seen, float("-inf"))
    some = seen.any(-1, keepdim=True)
    # A query that sees nothing gives zeros and has no gradient; its softmax is taken over zeros and dropped.
    probabilities = torch.where(some, hidden, 0.0).softmax(-1) * seen
    lse = torch.where(some[..., 0], torch.where(some, hidden, 0.0).logsumexp(-1), float("-inf"))
    return {"out": torch.einsum("bhts,bshe->bthe", probabilities, v), "lse": lse.detach()}


def attention(goldens):
    zero, full = torch.zeros(2, dtype=torch.int64), torch.tensor([6, 6])
    padded = torch.tensor([6, 4])
    segments = torch.tensor([[0, 0, 1, 1, 1, 2], [5, 5, 5, 5, 6, 6]])
    # name: (queries, keys, query heads, key heads, value channels, start, valid, segments, causal, window)
    variants = {
        "attention_causal": (6, 6, 4, 2, 4, zero, full, None, True, 0),
        "attention_valid": (6, 6, 4, 2, 4, zero, padded, None, True, 0),
        "attention_window": (6, 6, 4, 2, 4, zero, padded, None, True, 3),
        "attention_segments": (6, 6, 4, 2, 4, zero, padded, segments, True, 0),
        "attention_segments_window": (6, 6, 4, 1, 4, zero, full, segments, True, 2),
        "attention_cached": (2, 6, 4, 2, 4, torch.tensor([3, 1]), torch.tensor([5, 3]), None, True, 0),
        "attention_cached_window": (2, 6, 2, 2, 4, torch.tensor([4, 2]), torch.tensor([6, 4]), None, True, 3),
        "attention_whole": (3, 5, 4, 4, 6, zero, torch.tensor([5, 2]), None, False, 0),
        "attention_nothing_seen": (4, 4, 2, 1, 4, zero, torch.tensor([0, 3]), None, True, 0),
    }
    for name, (queries, keys, heads, groups, values, start, valid, marks, causal, window) in variants.items():
        channels = 4
        scale = channels**-0.5
        inputs = {
            "q": goldens.normal(2, queries, heads, channels, scale=1.5), "k": goldens.normal(2, keys, groups, channels, scale=1.5),
            "v": goldens.normal(2, keys, groups, values), "start": start, "valid": valid,
        }
        if marks is not None:
            inputs["segments"] = marks
        attrs = {"scale": scale, "causal": causal, "window": window, "segments": marks is not None, "lse": True}

        def compute(i, scale=scale, causal=causal, window=window):
            return attend(i, scale, causal, window)

        goldens.add(name, "attention", compute, inputs, attrs)
