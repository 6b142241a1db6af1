"""How a benchmark is started from the command line: what is wrong is one sentence and exit code
2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from features.errors import InputError, ServiceUnavailable


class Options(argparse.ArgumentParser):
    """The options of one benchmark; every benchmark has `--tracking`."""

    def __init__(self, description: str | None) -> None:
        name = Path(sys.argv[0]).stem
        super().__init__(
            name, None, description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument(
            "--tracking",
            default=None,
            help="MLflow address; default: out/benchmarks/mlflow.db here",
        )

    def error(self, message: str) -> NoReturn:
        """End with one sentence: `cost is left out: the following arguments are required:
        --data.`
        """
        self.exit(2, f"{self.prog} is left out: {message}.\n")


def start(main: Callable[[Sequence[str]], object]) -> None:
    """Run a benchmark on the process's arguments; a refusal is one sentence on standard error and
    exit code 2.
    """
    try:
        main(sys.argv[1:])
    except (InputError, ServiceUnavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
