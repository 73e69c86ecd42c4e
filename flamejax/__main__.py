"""The `flamejax` command and `python -m flamejax`: run `experiments.cli`, unless something shadows our packages."""

import sys

from flamejax._shadow import LIBRARY, check_packages


def main() -> int:
    """Run `flamejax COMMAND ...` and return the exit status; it is 2 if one of our packages is shadowed."""
    try:
        check_packages(*LIBRARY, "experiments")
    except ImportError as error:
        print(f"flamejax: {error}", file=sys.stderr)
        return 2
    from experiments import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
