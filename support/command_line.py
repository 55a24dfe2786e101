"""Command lines: their options, and errors in one line."""

import argparse
import dataclasses
import functools
import math
import sys
from pathlib import Path

MODEL = Path("output") / "nice.keras"


class Parser(argparse.ArgumentParser):
    def error(self, message):  # in one line, without the usage
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")

    def add_options(self, **kinds):
        """Add options such as --batch-size; of these, only those that are given are returned."""
        for name, kind in kinds.items():
            choices = {"choices": kind} if isinstance(kind, list) else {"type": kind}
            self.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS, **choices)


def at_least(least, kind):
    """Make an argparse type: a finite number of this kind, not below `least`."""

    def number(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    return number


SIZE, SEED, REAL = at_least(1, int), at_least(0, int), at_least(0.0, float)


def parse_training(argv, recipes):
    """Read the command line of nice.py: its arguments, and the recipe that they make."""
    parser = Parser(prog="nice.py", description="Train NICE. Options override the recipe's values.")
    parser.add_argument("--data", help=".npz file of images (default: MNIST)")
    parser.add_argument("--output", type=Path, default=MODEL.parent, help="folder to write to")
    parser.add_argument("--recipe", choices=recipes, default="digits", help="set of values")
    parser.add_argument("--start", type=Path, help="a model to go on from, in another folder")
    parser.add_argument("--evaluate", action="store_true", help="only measure the output's model")
    parser.add_argument("--fresh", action="store_true", help="start over in the output folder")
    parser.add_options(epochs=SIZE, batch_size=SIZE, learning_rate=REAL, seed=SEED)
    network = {"couplings": SIZE, "hidden_layers": SIZE, "hidden_units": SIZE, "noise": REAL}
    network["prior"] = ["gaussian", "logistic"]
    parser.add_options(**network)
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in network if name in args}
    inside = args.start and args.start.resolve().parent == args.output.resolve()
    if args.start and (given or inside or args.evaluate):
        parser.error("--start takes the network from the model, trains, and has another --output")
    recipe = recipes[args.recipe]
    training = {f.name: getattr(args, f.name) for f in dataclasses.fields(recipe) if f.name in args}
    model = {} if args.start else recipe.model | given
    return args, dataclasses.replace(recipe, model=model, **training)


def program(main):
    """Decorate a `main` so that what goes wrong is one line on stderr, and an exit status."""

    @functools.wraps(main)
    def run(argv=None):
        try:
            return main(sys.argv[1:] if argv is None else [str(word) for word in argv])
        except KeyboardInterrupt:
            error, status = "stopped", 130
        except (OSError, ArithmeticError, ValueError) as caught:
            error, status = caught, 2 if isinstance(caught, ValueError) else 1
        name, message = Path(main.__code__.co_filename).name, " ".join(str(error).split())
        print(f"{name}: {message[:500]}", file=sys.stderr)
        return status

    return run
