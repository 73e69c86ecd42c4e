"""The `flamejax` command, also `python -m flamejax`: `experiments.cli`, unless something hides a package of ours."""

import sys

from flamejax._shadow import LIBRARY, check_packages


def main() -> int:
    """Run `flamejax COMMAND ...`. Returns the exit status; 2 where a package of ours is hidden."""
    try:
        check_packages(*LIBRARY, "experiments")
    except ImportError as error:
        print(f"flamejax: {error}", file=sys.stderr)
        return 2
    from experiments import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
