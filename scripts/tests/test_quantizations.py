"""The tables of docs/MODEL-QUANTIZATIONS.md, computed again from the inputs that stand in the document."""
import math
import pathlib
import re
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "MODEL-QUANTIZATIONS.md"
GIB = 2**30

# What the text of the document assumes; `test_the_text_states_the_assumptions` finds each there.
KIMI_PARAMETERS = 1026.4e9
KIMI_ROUTED = 60 * 384 * 3 * 7168 * 2048  # weights in experts
KIMI_ACTIVE = 60 * 8 * 3 * 7168 * 2048  # those that a token uses
KIMI_BITS = 1.87
KIMI_BYTES = 247e9
EXPERT_BYTES = KIMI_ROUTED * KIMI_BITS / 8
TOKEN_BYTES = KIMI_ACTIVE * KIMI_BITS / 8
CARD_BANDWIDTH = 320e9
MEMORY_BANDWIDTH = 40e9
CARD_SECONDS = 0.1
CARD_GIB = 15
COMPUTE_GIB = 1
QWEN_EXPERTS = 48 * 128 * 3 * 2048 * 768
QWEN_PARAMETERS = 30.5e9


def tables(text):
    """All tables as (heading above, header cells, rows of cells)."""
    found, heading, table = [], "", []
    for line in text.splitlines() + [""]:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif table:
            found.append((heading, table[0], table[2:]))
            table = []
    return found


def number(cell):
    return float(re.sub(r"[^0-9.]", "", cell))


def page_cache(limit_gib):
    """What the process itself leaves of a pod's memory limit."""
    return limit_gib - min(limit_gib / 8, 16)


def cached_part(limit_gib):
    """The part of the experts that the page cache of a pod with this limit holds."""
    return min(1.0, page_cache(limit_gib) * GIB / EXPERT_BYTES)


def seconds_per_token(limit_gib, disk):
    hit = cached_part(limit_gib)
    return TOKEN_BYTES * ((1 - hit) / disk + hit / MEMORY_BANDWIDTH) + CARD_SECONDS


class Tables(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.text = DOCUMENT.read_text(encoding="utf-8")
        cls.flat = " ".join(cls.text.split())
        cls.tables = tables(cls.text)

    def table(self, heading, first_cell):
        rows = [rows for above, header, rows in self.tables if above == heading and header[0] == first_cell]
        self.assertEqual(len(rows), 1, f"one table below '{heading}' that begins with '{first_cell}'")
        self.assertTrue(rows[0], heading)
        return rows[0]

    def header(self, heading, first_cell):
        return next(header for above, header, _ in self.tables if above == heading and header[0] == first_cell)

    def test_sizes_of_kimi(self):
        for row in self.table("Kimi-K2", "model"):
            size = number(row[2]) * 1e9
            self.assertEqual(row[3:], [
                f"{size / GIB:.0f}", f"{size * 8 / KIMI_PARAMETERS:.2f}", f"{size * 8 / 1e9 / 60:.0f}",
                f"{size / 1e9 / 60:.1f}"], row)

    def test_sizes_of_others(self):
        for row in self.table("Others", "model"):
            total, active = map(float, re.search(r"([\d.]+) G parameters, ([\d.]+) active", row[0]).groups())
            size = number(row[3])
            self.assertEqual(row[4:], [f"{size / GIB:.1f}", f"{size * active / total / 1e9:.1f}"], row)

    def test_kv_cache(self):
        for row in self.table("Memory", "model"):
            size = math.prod(sum(map(int, re.findall(r"\d+", factor))) for factor in row[1].split("*"))
            self.assertEqual(row[2:], [f"{size:,}", f"{size * 16384 / GIB:.2f}"], row)

    def test_what_fits_the_card(self):
        cache = {row[0]: number(row[2]) for row in self.table("Memory", "model")}
        weights = {row[0].split(",")[0]: number(row[3]) / GIB for row in self.table("Others", "model")}
        weights["Qwen3-30B-A3B"] = weights["Qwen3-30B-A3B-Instruct-2507"]
        weights["Qwen3-30B-A3B in 3 bits"] = weights["the same in 3 bits (about)"]
        weights["Kimi-K2, `MoE_OFFLOAD=all`"] = 8e9 / GIB
        freed = weights["Qwen3-30B-A3B"] * QWEN_EXPERTS / QWEN_PARAMETERS / 48
        self.assertTrue(f"each layer moved frees {freed:.2f} GiB" in self.flat, freed)
        weights["Qwen3-30B-A3B, `MoE_OFFLOAD=12`"] = weights["Qwen3-30B-A3B"] - 12 * freed
        for row in self.table("What fits the card", "model"):
            model = row[0]
            per_token = cache[re.split(r",| in 3 bits", model)[0]]
            kv = per_token * number(row[2]) / GIB
            total = weights[model] + kv + COMPUTE_GIB
            self.assertEqual([row[1]] + row[3:], [
                f"{weights[model]:.2f}", f"{kv:.2f}", f"{total:.2f}", "yes" if total <= CARD_GIB else "no"], row)

    def test_seconds_a_token(self):
        heading = "Kimi-K2: seconds a token"
        seconds, rates = [rows for above, _, rows in self.tables if above == heading]
        disks = [number(cell) * 1e9 for cell in ("0.25", "1", "3")]
        for row in seconds:
            limit = number(row[0])
            self.assertEqual(row[1:], [f"{page_cache(limit):.0f}", f"{cached_part(limit):.0%}".replace("%", " %")]
                             + [f"{seconds_per_token(limit, disk):.1f} s" for disk in disks], row)
        for row in rates:
            self.assertEqual(row[1:], [f"{1 / seconds_per_token(number(row[0]), disk):.2f}" for disk in disks], row)
        self.assertEqual([row[0] for row in seconds], [row[0] for row in rates])

    def test_experts_that_a_pass_touches(self):
        for row in self.table("Kimi-K2: the first token", "tokens in a pass"):
            touched = 1 - (1 - 8 / 384) ** number(row[0])
            self.assertEqual(row[1], f"{touched:.0%}".replace("%", " %"), row)

    def test_prompts(self):
        for row in self.table("Kimi-K2: the first token", "disk, GB/s"):
            one = KIMI_BYTES / (number(row[0]) * 1e9) / 60
            passes = [1, math.ceil(2000 / 512), math.ceil(2000 / 1024), math.ceil(2000 / 2048)]
            self.assertEqual(row[1:], [f"{one * n:.1f}" for n in passes], row)

    def test_the_start(self):
        for row in self.table("Kimi-K2: the start", "disk, GB/s"):
            one = KIMI_BYTES / (number(row[0]) * 1e9) / 60
            self.assertEqual(row[1:], [f"{one:.1f}", f"{2 * one:.1f}"], row)

    def test_figures_in_the_text(self):
        gpt_token = 12109566624 * 3.6 / 20.9
        answer = [500 * seconds_per_token(limit, 1e9) / 60 for limit in (64, 128)]
        from_disk = [TOKEN_BYTES * (1 - cached_part(limit)) / 1e9 for limit in (64, 128)]
        for figure in [
            f"{KIMI_ACTIVE / 1e9:.1f} billion weights at {KIMI_BITS} bits = **{TOKEN_BYTES / 1e9:.1f} GB**",
            f"out of {EXPERT_BYTES / 1e9:.0f} GB of experts",
            f"gpt-oss-20b reads {gpt_token / 1e9:.1f} GB a token: {gpt_token / CARD_BANDWIDTH * 1e3:.1f} ms",
            f"{3 * gpt_token / CARD_BANDWIDTH * 1e3:.0f} ms at a third of it, **about "
            f"{CARD_BANDWIDTH / 3 / gpt_token // 10 * 10:.0f} tokens a second**",
            f"2,000 tokens in {2000 / 900:.1f} s",
            f"{QWEN_EXPERTS / 1e9:.1f} of Qwen3's {QWEN_PARAMETERS / 1e9:.1f} billion",
            f"247 GB in 300 s are {KIMI_BYTES / 300 / 1e9:.2f} GB/s for one reading and "
            f"{2 * KIMI_BYTES / 300 / 1e9:.2f} GB/s",
            f"(0.25 GB/s) takes {KIMI_BYTES / 0.25e9 / 60:.1f} minutes",
            f"{KIMI_BYTES * 8 / 300 / 1e9:.1f} Gbit/s are needed",
            f"64 GiB hold {cached_part(64) * 100:.0f} % of the experts and 128 GiB hold {cached_part(128) * 100:.0f} %",
            f"comes from the disk: {from_disk[0]:.1f} and {from_disk[1]:.1f} GB",
            f"{seconds_per_token(64, 1e9):.1f} and {seconds_per_token(128, 1e9):.1f} s a token",
            f"{1 / seconds_per_token(64, 1e9):.2f} and {1 / seconds_per_token(128, 1e9):.2f} tokens a second",
            f"takes {answer[0]:.0f} and {answer[1]:.0f} minutes",
            f"after a first token that took {math.ceil(2000 / 1024) * KIMI_BYTES / 1e9 / 60:.1f}",
            f"loaded in {12109566624 / 1e9:.0f} s at 1 GB/s",
            f"{page_cache(245):.0f} GiB of page cache are {page_cache(245) * GIB / 1e9 // 1:.0f} GB",
            f"from {math.ceil(EXPERT_BYTES / GIB + 16)} GiB on all experts are in it",
            f"247 GB at 12 GB/s, about {KIMI_BYTES / 12e9 // 10 * 10:.0f} s",
            f"first time: {KIMI_BYTES * 8 / 1e9 / 60:.0f} minutes at 1 Gbit/s",
        ]:
            self.assertTrue(figure in self.flat, f"the text should say: {figure}")

    def test_the_text_states_the_assumptions(self):
        for phrase in ["1,026.4 billion parameters", "in each of 60 layers 8 of 384 experts",
                       "60 layers * 8 experts * 3 matrices * 7,168 * 2,048", "1.87 bits", "about 15 GiB",
                       "320 GB/s is a T4's memory", "40 GB/s is a node's memory", "0.1 s are added for the card",
                       "an eighth of the limit, but 16 GiB at most, is taken off", "take about 1 GiB",
                       "spread over 48 layers", "Kimi-K2 without its experts is about 8 GB"]:
            self.assertTrue(phrase in self.flat, f"the text should say: {phrase}")

    def test_deploy_knows_the_same_sizes(self):
        script = (ROOT / "scripts/lib/deploy/model.sh").read_text(encoding="utf-8")
        known = {(model, quant): float(size) for model, quant, size in
                 re.findall(r'"unsloth/Kimi-K2-(Thinking|Instruct)-GGUF ([\w-]+)"\]=(\d+)', script)}
        told = {(row[0], row[1].strip("`")): number(row[2]) for row in self.table("Kimi-K2", "model")}
        self.assertEqual(known, told)

    def test_the_profiles_are_as_told(self):
        def data(folder, file):
            return yaml.safe_load((ROOT / "manifests" / folder / file).read_text(encoding="utf-8"))["data"]

        kimi, small = (data(folder, "03-configmap.yaml") for folder in ("base", "components/gpt-oss-20b-t4"))
        self.assertEqual([kimi[name] for name in ("CTX_SIZE", "BATCH_SIZE", "UBATCH_SIZE")], ["16384", "1024", "1024"])
        self.assertEqual([small[name] for name in ("CTX_SIZE", "PARALLEL_SLOTS")], ["32768", "2"])
        config = data("base", "10-gateway-configmap.yaml")["gateway.toml"]
        for line in ['first_token = "20m"', 'first_token_per_1000 = "10m"', 'total = "4h"',
                     "white_space_keep_alive = true"]:
            self.assertIn(line, config.splitlines())
        deployment = (ROOT / "manifests/base/05-deployment.yaml").read_text(encoding="utf-8")
        for line in ["memory: 128Gi", "progressDeadlineSeconds: 21600", "failureThreshold: 480", "periodSeconds: 15"]:
            self.assertIn(line, deployment)

    def test_every_table_with_figures_is_computed(self):
        computed = {"Kimi-K2", "Others", "Memory", "What fits the card", "Kimi-K2: seconds a token",
                    "Kimi-K2: the first token", "Kimi-K2: the start"}
        told = {"In short", "What quantisation is", "What one T4 really does"}
        self.assertEqual({heading for heading, _, _ in self.tables}, computed | told)


if __name__ == "__main__":
    unittest.main()
