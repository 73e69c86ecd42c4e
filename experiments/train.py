"""The training command, `flamejax train --config NAME ...`. Without arguments it lists the configs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from experiments import runtime
from experiments.command_line import message_console, print_error
from experiments.configs import CONFIGS

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.train") -> int:
    """Run the command. Returns the exit status: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    args = sys.argv[1:] if args is None else list(args)
    name, rest = split_config_name(args)
    if name is None:
        wants_list = not rest or rest[0] in ("-h", "--help")
        print(usage_text(prog), file=sys.stdout if wants_list else sys.stderr)
        return EXIT_OK if wants_list else EXIT_ERROR
    if name not in CONFIGS:
        print(f"{prog}: no config {name!r}.\n\n{usage_text(prog)}", file=sys.stderr)
        return EXIT_ERROR
    default = CONFIGS[name][1]
    # A log file has no width, and rich would cut tables to 80 columns.
    console = message_console(stderr=False, width=None if sys.stdout.isatty() else 120)
    options = tyro.cli(type(default), args=rest, default=default, prog=f"{prog} --config {name}")
    runtime.use_compilation_cache()
    try:
        options.run(console)
    except KeyboardInterrupt as stopped:  # also `TrainingStopped`, which says what was saved
        print(str(stopped) or "Stopped.", file=sys.stderr)
        return getattr(stopped, "exit_status", EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        print_error(f"{error}. Training needs more packages: pip install 'flamejax[data]'")
        return EXIT_ERROR
    except (OSError, ValueError, RuntimeError) as error:
        print_error(error)
        return EXIT_ERROR
    return EXIT_OK


def split_config_name(args: list[str]) -> tuple[str | None, list[str]]:
    """Returns the config's name (None if it is not given) and the other arguments, which are its options."""
    for i, arg in enumerate(args):
        if arg == "--config" and i + 1 < len(args):
            return args[i + 1], args[:i] + args[i + 2 :]
        if arg.startswith("--config="):
            return arg.removeprefix("--config="), args[:i] + args[i + 1 :]
    return None, args


def usage_text(prog: str) -> str:
    """Returns the usage line and the list of configs."""
    width = max(map(len, CONFIGS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, (summary, _) in CONFIGS.items())
    return f"usage: {prog} --config NAME ...\n\n{lines}\n\n'{prog} --config NAME --help' lists its options."


if __name__ == "__main__":
    sys.exit(main())
