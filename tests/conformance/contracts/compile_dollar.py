"""Compiles dollar.vy into dollar.json. Needs Vyper, which the project itself does not:

python3 -m venv /tmp/vyper
/tmp/vyper/bin/pip install vyper==0.4.3
/tmp/vyper/bin/python tests/conformance/contracts/compile_dollar.py
"""

from __future__ import annotations

import json
from pathlib import Path

import vyper

HERE = Path(__file__).parent


def main() -> None:
    source = (HERE / "dollar.vy").read_text()
    compiled = vyper.compile_code(source, output_formats=["abi", "bytecode_runtime"])
    result = {"compiler": f"vyper {vyper.__version__}", "abi": compiled["abi"], "runtime": compiled["bytecode_runtime"]}
    (HERE / "dollar.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
