#!/usr/bin/env python3
"""Blanks the kernels for other GPUs in MLX's library for CUDA, so that it packs to a tenth.

    thin.py LIBRARY ARCHITECTURE OUT        (90 for Hopper)

For sending it to a machine that can fetch nothing. The size stays; what is blanked compresses to nothing. On
another GPU than the one named, the result fails at the first kernel.
"""

import struct
import sys

# One container: magic, version, size of this header, size of the entries that follow.
CONTAINER = struct.Struct("<IHHQ")
MAGIC = struct.pack("<I", 0xBA55ED50)
# One entry: kind (1 source text, 2 machine code), version, size of this header, size of its content.
ENTRY = struct.Struct("<HHIQ")
ARCHITECTURE_AT = 28


def main():
    library, architecture, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with open(library, "rb") as file:
        data = bytearray(file.read())
    kept = blanked = 0
    at = data.find(MAGIC)
    while at >= 0:
        _, version, header, size = CONTAINER.unpack_from(data, at)
        if (version, header) != (1, 16) or at + header + size > len(data):
            at = data.find(MAGIC, at + 4)  # the same four bytes, by chance
            continue
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size = ENTRY.unpack_from(data, entry)
            (found,) = struct.unpack_from("<I", data, entry + ARCHITECTURE_AT)
            if kind not in (1, 2):
                sys.exit(f"{library}: an entry of the unknown kind {kind} at {entry}")
            if found == architecture:
                kept += size
            else:
                data[entry + header : entry + header + size] = bytes(size)
                blanked += size
            entry += header + size
        at = data.find(MAGIC, end)
    if not kept:
        sys.exit(f"{library} has no kernels for architecture {architecture}")
    with open(out, "wb") as file:
        file.write(data)
    print(f"kept {kept} bytes of kernels for architecture {architecture}, blanked {blanked}")


if __name__ == "__main__":
    main()
