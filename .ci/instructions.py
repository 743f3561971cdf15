"""Counts the instructions of the benchmarks in benches/instructions and holds them against the committed counts.

Usage: instructions.py [--accept]. Fails if a count is more than 5 % above its baseline, or has none; `--accept` writes
the counts to benches/instructions.baseline instead, for a change that is worth its cost, or for another toolchain.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

BASELINE = Path("benches/instructions.baseline")
# Counts hardly move by themselves: by how a hash falls out, or the order in which a runtime looks at its tasks.
ALLOWED = 1.05
HEAD = """\
# Instructions that each benchmark of benches/instructions takes, under callgrind. They depend on the toolchain and its
# optimiser, on the dependencies, and a little on the C library; when one of these moves, so may they. Written by
# `python3 .ci/instructions.py --accept`, here with {rustc}.
"""
COUNT = re.compile(r"^(\w+) = (\d+)$", re.MULTILINE)


def count() -> dict[str, int]:
    """Runs the benchmarks; their counts by name."""
    command = ["cargo", "bench", "--locked", "--quiet", "--bench", "instructions", "--", "--output-format=json"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return dict(read(json.loads(line)) for line in lines)


def read(summary: dict) -> tuple[str, int]:
    """The name and the count in a benchmark's summary."""
    total = summary["profiles"][0]["data"]["total"]
    return summary["function_name"], total["metrics"]["Ir"]["values"]["new"]


def main(is_accepted: bool) -> None:
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    counts = count()
    if not counts:
        sys.exit("FAILED: nothing was counted")
    if is_accepted:
        lines = (f"{name} = {instructions}\n" for name, instructions in counts.items())
        BASELINE.write_text(HEAD.format(rustc=rustc) + "".join(lines), encoding="utf-8")
    known_text = BASELINE.read_text(encoding="utf-8")
    if rustc not in known_text:
        print(f"These are counts of {rustc}, and the baseline is another's: compare with care.")
    baseline = {name: int(number) for name, number in COUNT.findall(known_text)}
    wrong = sorted(baseline.keys() - counts.keys())
    for name, instructions in counts.items():
        known = baseline.get(name)
        ratio = instructions / known if known else float("inf")
        print(f"{name:10} {instructions:>10} of {known or 'none':>10}  {ratio:.3f}")
        if ratio > ALLOWED:
            wrong.append(name)
    if wrong:
        sys.exit(
            f"FAILED: more than 5 % above {BASELINE}, or not in it, or no longer counted: {', '.join(wrong)}. "
            "If that is meant, run `python3 .ci/instructions.py --accept`."
        )


if __name__ == "__main__":
    main("--accept" in sys.argv[1:])
