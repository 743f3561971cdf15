"""Runs the commands of README's `console` blocks and compares what they print with what README shows.

Usage: readme.py README ADDRESS. The gateway at ADDRESS stands for the one that README has on the default port; it
must be fresh, as its tasks begin when they are first asked for. Times are not compared, and a line `…` stands for any.
"""

import re
import subprocess
import sys

DEFAULT = "127.0.0.1:50051"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def expectation(shown: str) -> re.Pattern[str]:
    """A pattern for the output that README shows."""
    lines = [r"(?:.*\n)*?" if line == "…" else re.escape(line) + r"\n" for line in shown.splitlines()]
    return re.compile("".join(lines))


def main(readme: str, address: str) -> None:
    with open(readme, encoding="utf-8") as file:
        blocks = re.findall(r"^```console\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    wrong = ran = 0
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", command.replace(DEFAULT, address)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        ran += 1
        printed = TIME.sub("TIME", done.stdout)
        if expectation(TIME.sub("TIME", shown)).fullmatch(printed):
            print("as shown:", command)
        else:
            wrong += 1
            print(f"NOT as README shows: {command}\n{done.stdout}")
    if wrong or not ran:
        sys.exit(f"{wrong} of {ran} commands print something else than README shows")


if __name__ == "__main__":
    main(*sys.argv[1:])
