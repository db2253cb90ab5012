"""Splits a GGUF into shards as llama.cpp's gguf-split does, a part of the tensors in each.

  split_gguf.py MODEL.gguf PREFIX SHARDS    writes PREFIX-00001-of-0000N.gguf ...

The first shard has the metadata, all have split.no, split.count and split.tensors.count.
"""

import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from tiny_model import padded, read_string, skip, string

UINT16, INT32 = 2, 5


def split(source, prefix, shards):
    data = Path(source).read_bytes()
    metadata, entries, tensors = read(data)
    share = -(-len(tensors) // shards)
    for number in range(shards):
        part = tensors[number * share:(number + 1) * share]
        values = [
            string("split.no") + struct.pack("<IH", UINT16, number),
            string("split.count") + struct.pack("<IH", UINT16, shards),
            string("split.tensors.count") + struct.pack("<Ii", INT32, len(tensors)),
        ]
        count = len(values) + (entries if number == 0 else 0)
        shard = struct.pack("<4sIQQ", b"GGUF", 3, len(part), count)
        shard += (metadata if number == 0 else b"") + b"".join(values)
        offset = 0
        for head, body in part:
            shard += head + struct.pack("<Q", offset)
            offset += padded(len(body))
        shard = shard.ljust(padded(len(shard)), b"\0")
        shard += b"".join(body.ljust(padded(len(body)), b"\0") for _, body in part)
        Path(f"{prefix}-{number + 1:05d}-of-{shards:05d}.gguf").write_bytes(shard)


def read(data):
    """Returns the raw metadata, its entries, and of each tensor its head (without offset) and its bytes."""
    _, _, tensor_count, entries = struct.unpack_from("<4sIQQ", data)
    at = 24
    for _ in range(entries):
        _, at = read_string(data, at)
        at = skip(data, at + 4, struct.unpack_from("<I", data, at)[0])
    metadata, heads = data[24:at], []
    for _ in range(tensor_count):
        start = at
        _, at = read_string(data, at)
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4
        heads.append((data[start:at], struct.unpack_from("<Q", data, at)[0]))
        at += 8
    begin = padded(at)
    ends = [offset for _, offset in heads[1:]] + [len(data) - begin]
    return metadata, entries, [(head, data[begin + o:begin + end]) for (head, o), end in zip(heads, ends)]


if __name__ == "__main__":
    split(sys.argv[1], sys.argv[2], int(sys.argv[3]))
