"""Philox4x32-10 (Salmon et al. 2011), plainly, for the random bits of the op goldens."""

import torch

MASK = 0xFFFFFFFF
KNOWN_ANSWERS = [  # counter, key, result: published with the algorithm
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([MASK] * 4, [MASK] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def block(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & MASK, (left >> 32) ^ c3 ^ k1, left & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def check_known_answers():
    for counter, key, result in KNOWN_ANSWERS:
        assert block(counter, key) == result, [hex(word) for word in block(counter, key)]


def random_bits(seed, step, example, position, channels, site):
    """int64 [S, channels] holding u32 values: word c mod 4 of the block for
    (position, example, step, site * 65536 + c div 4) under the key `seed`."""
    rows = []
    for one, place in zip(example.tolist(), position.tolist()):
        row = []
        for channel in range(channels):
            counter = [place, one, int(step), site * 65536 + channel // 4]
            row.append(block(counter, seed.tolist())[channel % 4])
        rows.append(row)
    return torch.tensor(rows)
