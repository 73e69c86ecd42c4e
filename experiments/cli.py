"""The `flamejax` command: runs the subcommand that its first word names. Each is also `python -m experiments.NAME`."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "reconstruct": "turn photos of faces into 3D heads",
    "view": "look at results in the browser, change the heads, draw more hypotheses",
    "demo": "reconstruct a public-domain portrait, clean and with a face mask",
    "evaluate": "print the papers' tables, computed on the open scans",
    "calibrate-landmarks": "measure where on a head the detector puts its landmarks",
    "convert": "convert a FLAME or ICT-FaceKit model, or an image encoder, to one .npz",
    "train": "train the Mesh-VAE, OFER's networks or local models, on open data or your own",
    "doctor": "report what is installed, what is missing and where to get it",
    "benchmark": "time the head model, renderer, fit and networks, also against other libraries",
    "fetch-sources": "fetch the CC0 files that the open head is built from",
}
"""Name -> one line of help. `experiments.NAME` (- as _) has `main(args, prog) -> exit status`; imported only to run."""
COMPLETION_FLAGS = ("--tyro-print-completion", "--tyro-write-completion")
SHELLS = ("bash", "zsh")


def main(args: Sequence[str] | None = None) -> int:
    """Run `flamejax COMMAND ...`. Returns the exit status; 2 for an unknown command."""
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] == "--version":
        print(importlib.metadata.version("flamejax"))
        return 0
    name, *rest = args
    completion = args if name not in COMMANDS else rest
    if completion and completion[0].replace("_", "-") in COMPLETION_FLAGS:
        return _print_completion(completion)
    if name not in COMMANDS:
        print(f"flamejax: no command {name!r}.\n\n{_help()}", file=sys.stderr)
        return 2
    return importlib.import_module(f"experiments.{name.replace('-', '_')}").main(rest, prog=f"flamejax {name}")


def _print_completion(args: Sequence[str]) -> int:
    """Print or write the completion script of all commands. args: a flag, the shell and, to write, a path."""
    option, *values = args
    wanted = 1 if "print" in option else 2
    if len(values) != wanted or values[0] not in SHELLS:
        print(f"flamejax: {option} needs {' or '.join(SHELLS)}{' and a path' * (wanted == 2)}.", file=sys.stderr)
        return 2
    from experiments.completion import completion_script  # late: it imports every command

    script = completion_script(values[0], COMMANDS)
    if wanted == 1:
        print(script)
        return 0
    try:
        Path(values[1]).write_text(script + "\n", encoding="utf-8")
    except OSError as error:
        print(f"flamejax: {values[1]} cannot be written ({error.strerror}).", file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {line}" for name, line in COMMANDS.items())
    return (
        f"usage: flamejax COMMAND ...\n\n{lines}\n\n"
        "'flamejax COMMAND --help' lists its options; 'flamejax --version' prints the version.\n"
        "Completion in bash: source <(flamejax --tyro-print-completion bash)"
    )


if __name__ == "__main__":
    sys.exit(main())
