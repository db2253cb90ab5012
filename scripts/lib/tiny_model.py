"""A GGUF of random weights for tests: small, fast, and it does not stop by itself.

Takes: any GGUF with a byte-level BPE vocabulary (its tokenizer and chat template are copied).
Gives: a two-layer llama model of about 8 MB. The same input gives the same bytes.

How it is kept from stopping. Every embedding has the same positive value in dimension 0, and no
layer writes to that dimension, so the last hidden state is always positive there. The output rows
of tokens that must not be said look at dimension 0 alone, with a negative weight. Their logits
are about -50 where the others lie within +-15: unlikely beyond any seed, yet a `logit_bias` of
100 on the end-of-turn token, or a grammar that leaves nothing else, still ends the answer.
Not to be said are: control tokens, and tokens that are not whole, printable UTF-8 by themselves.
"""

import random
import struct

# One head of 64: flash attention on a CPU is much slower with heads of 32.
EMBD, HEADS, LAYERS, FFN, CONTEXT = 64, 1, 2, 128, 32768
SEED = 1
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9  # GGUF metadata types
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
F32, Q8_0 = 0, 8  # ggml tensor types
BLOCK = 32  # Q8_0: blocks of one f16 scale and 32 int8
INT8_STD = 256 / 12**0.5  # of uniform random bytes
ALIGN = 32
NORMAL_TOKEN = 1


def make(source, target):
    """Writes the tiny model to `target` with the tokenizer of the GGUF `source`.

    Returns how many tokens of the vocabulary may be said and how many may not.
    """
    tokenizer, tokens, types = read_tokenizer(source)
    muted = [not may_be_said(token, kind) for token, kind in zip(tokens, types)]
    tensors = list(weights(random.Random(SEED), muted))
    with open(target, "wb") as out:
        metadata = header_values(len(tokens)) + tokenizer
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
        out.write(b"".join(metadata))
        offset = 0
        for name, shape, kind, data in tensors:
            out.write(string(name) + struct.pack("<I", len(shape)))
            out.write(struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset))
            offset += padded(len(data))
        out.write(bytes(padded(out.tell()) - out.tell()))
        for *_, data in tensors:
            out.write(data.ljust(padded(len(data)), b"\0"))
    return muted.count(False), muted.count(True)


def header_values(vocabulary):
    """The metadata of the model itself."""
    def entry(key, kind, packed):
        return string(key) + struct.pack("<I", kind) + packed

    def number(key, value):
        return entry("llama." + key, UINT32, struct.pack("<I", value))

    return [
        entry("general.architecture", STRING, string("llama")),
        entry("general.name", STRING, string("tiny random model")),
        number("vocab_size", vocabulary),
        number("context_length", CONTEXT),
        number("embedding_length", EMBD),
        number("feed_forward_length", FFN),
        number("block_count", LAYERS),
        number("attention.head_count", HEADS),
        number("rope.dimension_count", EMBD // HEADS),
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
    ]


def weights(rng, muted):
    """Yields (name, shape, type, data) of every tensor."""
    yield "token_embd.weight", (EMBD, len(muted)), Q8_0, embeddings(rng, len(muted))
    yield "output.weight", (EMBD, len(muted)), Q8_0, output_rows(rng, muted)
    yield "output_norm.weight", (EMBD,), F32, ones(EMBD)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (EMBD,), F32, ones(EMBD)
        for name, wide, tall in (
            ("attn_q", EMBD, EMBD),
            ("attn_k", EMBD, EMBD),
            ("attn_v", EMBD, EMBD),
            ("ffn_gate", EMBD, FFN),
            ("ffn_up", EMBD, FFN),
        ):
            rows = b"".join(random_row(rng, wide, wide**-0.5) for _ in range(tall))
            yield f"blk.{layer}.{name}.weight", (wide, tall), Q8_0, rows
        for name, wide in (("attn_output", EMBD), ("ffn_down", FFN)):
            # Row 0 is nought: nothing is ever added to dimension 0.
            rows = bytes(row_size(wide)) + b"".join(
                random_row(rng, wide, wide**-0.5) for _ in range(EMBD - 1)
            )
            yield f"blk.{layer}.{name}.weight", (wide, EMBD), Q8_0, rows


def embeddings(rng, vocabulary):
    rows = bytearray(b"".join(random_row(rng, EMBD, 1) for _ in range(vocabulary)))
    rows[2 :: row_size(EMBD)] = bytes([127]) * vocabulary  # behind each row's first scale
    return bytes(rows)


def output_rows(rng, muted):
    """Rows of standard deviation 0.4 give logits of about +-3 and a lively choice of tokens."""
    silent = struct.pack("<e32b", 50 / 127, -127, *[0] * (BLOCK - 1)).ljust(row_size(EMBD), b"\0")
    spoken = (random_row(rng, EMBD, 0.4) for _ in muted)
    return b"".join(silent if mute else row for row, mute in zip(spoken, muted))


def random_row(rng, wide, deviation):
    scale = struct.pack("<e", deviation / INT8_STD)
    return b"".join(scale + rng.randbytes(BLOCK) for _ in range(wide // BLOCK))


def row_size(wide):
    return wide // BLOCK * (2 + BLOCK)


def ones(count):
    return struct.pack(f"<{count}f", *[1.0] * count)


def may_be_said(token, kind):
    """Whether a token of a byte-level BPE vocabulary is whole, printable text by itself."""
    try:
        text = bytes(BYTES[char] for char in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return False
    if kind != NORMAL_TOKEN or text == "":
        return False
    # Nor U+FFFD: where it shows up in a test, something broke a character.
    return all((c.isprintable() or c in "\n\t") and c != "\ufffd" for c in text)


def byte_alphabet():
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the rest follow 255."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(b): b for b in itself} | {chr(256 + i): b for i, b in enumerate(others)}


BYTES = byte_alphabet()


def read_tokenizer(path):
    """Returns the raw `tokenizer.*` metadata entries, the token texts and the token types."""
    with open(path, "rb") as file:
        data = file.read(64 << 20)  # the metadata comes first
    magic, version, _, entries = struct.unpack_from("<4sIQQ", data)
    if (magic, version) != (b"GGUF", 3):
        raise ValueError(f"{path} is not a GGUF of version 3")
    at, kept, starts = 24, [], {}
    for _ in range(entries):
        start = at
        key, at = read_string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        starts[key] = at + 4
        at = skip(data, at + 4, kind)
        if key.startswith("tokenizer."):
            kept.append(data[start:at])

    at = starts["tokenizer.ggml.tokens"]
    (count,) = struct.unpack_from("<Q", data, at + 4)
    tokens, at = [], at + 12
    for _ in range(count):
        token, at = read_string(data, at)
        tokens.append(token)
    types = struct.unpack_from(f"<{count}i", data, starts["tokenizer.ggml.token_type"] + 12)
    return kept, tokens, types


def skip(data, at, kind):
    """Where the metadata value that starts at `at` ends."""
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind != ARRAY:
        return at + SIZES[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind != STRING:
        return at + count * SIZES[kind]
    for _ in range(count):
        at = skip(data, at, STRING)
    return at


def read_string(data, at):
    (size,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + size].decode("utf-8"), at + 8 + size


def string(text):
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def padded(size):
    return -(-size // ALIGN) * ALIGN
