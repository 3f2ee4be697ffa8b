"""Has atheris look for bytes that break a subject, beginning with the corpus.

usage: python -m tests.fuzz SUBJECT [ARGUMENT...]

SUBJECT is header, challenge, solana, sse, answer, toml or body. Arguments go to libFuzzer: -max_total_time=600, or
files to replay. What it finds interesting goes into .fuzz/SUBJECT; what breaks something into .fuzz as well. atheris
must be installed (pip install atheris; it has wheels for Python 3.11 to 3.13).
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

with atheris.instrument_imports(include=["mitmproxy_x402"]):
    from fuzz.subjects import SUBJECTS


def main(arguments: list[str]) -> int:
    """The program's exit code; atheris ends the process where a subject is fuzzed."""
    if not arguments or arguments[0] not in SUBJECTS:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    subject, *given = arguments
    found = ROOT / ".fuzz" / subject
    found.mkdir(parents=True, exist_ok=True)
    folders = [str(found), str(ROOT / "tests" / "corpus" / subject)]
    options = ["-timeout=10", "-rss_limit_mb=1500", f"-artifact_prefix={found.parent}/{subject}-"]
    atheris.Setup([sys.argv[0], *options, *given, *([] if _replays(given) else folders)], SUBJECTS[subject])
    atheris.Fuzz()
    return 0


def _replays(given: list[str]) -> bool:
    return any(not argument.startswith("-") for argument in given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
