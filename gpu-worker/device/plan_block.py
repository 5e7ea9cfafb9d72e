"""Blocks of cache plans (engine/include/leanedge/plan.h) from widths and channels."""

import struct

STORAGES = {"f16": 0, "int8": 1, "int4": 2, "int2": 3}
NO_SECTION = 0xFFFFFFFF
SLOTS = 32


def plan_block(
    layers,
    kv_heads,
    head_dim,
    sink,
    recent,
    k="f16",
    v="f16",
    channels=None,
    pages_per_step=0,
    pages_floor=0,
):
    """channels[layer][head]: kept channels, increasing; None: all of them everywhere."""
    if channels is None:
        channels = [[list(range(head_dim))] * kv_heads] * layers
    k_bits, v_bits = 16 >> STORAGES[k], 16 >> STORAGES[v]
    groups = (head_dim + 31) // 32
    selects = pages_per_step != 0
    page_layers, page_heads, listed, page_bytes = [], [], [], 0

    def head_sections(width, at, first):
        start = at
        names = "k_values k_scale k_min k_max v_values v_scale v_min count positions".split()
        place = dict.fromkeys(names, NO_SECTION)

        def take(name, size):
            nonlocal at
            place[name] = at
            at += (size + 15) // 16 * 16

        if width:
            take("k_values", width * SLOTS * k_bits // 8)
            if k != "f16":
                take("k_scale", width * 2)
            if k != "f16" or selects:
                take("k_min", width * 2)
            if k == "f16" and selects:
                take("k_max", width * 2)
            take("v_values", SLOTS * (head_dim * v_bits // 8))
            if v != "f16":
                take("v_scale", groups * SLOTS * 2)
                take("v_min", groups * SLOTS * 2)
        fields = [width, first, start, at - start] + [place[n] for n in names] + [0]
        return struct.pack("<14I", *fields), at

    for layer in range(layers):
        at = 0
        for head in range(kv_heads):
            kept = channels[layer][head]
            packed, at = head_sections(len(kept), at, len(listed))
            page_heads.append(packed)
            listed.extend(kept)
        page_layers.append(struct.pack("<II", page_bytes, at))
        page_bytes += at
    size = 80 + 8 * layers + 56 * layers * kv_heads + (2 * len(listed) + 3) // 4 * 4
    header = struct.pack(
        "<3I5i2i5iI3Ii",
        0x504B454C,
        1,
        size,
        layers,
        kv_heads,
        head_dim,
        sink,
        recent,
        STORAGES[k],
        STORAGES[v],
        pages_per_step,
        pages_floor,
        0,
        1 << 20,
        0,
        len(listed),
        page_bytes,
        SLOTS * k_bits // 8,
        head_dim * v_bits // 8,
        groups,
    )
    block = header + b"".join(page_layers) + b"".join(page_heads)
    block += struct.pack(f"<{len(listed)}H", *listed)
    return block + bytes(size - len(block))
