"""Command lines: their options, and errors in one line."""

from support.errors import UserError

import argparse
import dataclasses
import functools
import math
import os
import sys
from pathlib import Path

MODEL = Path("output") / "nice.keras"  # where nice.py writes and sample.py reads
NETWORK = ("couplings", "hidden_layers", "hidden_units", "noise", "prior")
TRAINING = ("epochs", "batch_size", "learning_rate", "seed")


class Parser(argparse.ArgumentParser):
    def error(self, message):  # in one line, without the usage
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: {line}\n")


def at_least(least, kind):
    """Make an argparse type: a finite number of this kind, not below `least`."""

    def number(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    return number


not_negative = at_least(0, int)
positive = at_least(1, int)
not_negative_real = at_least(0.0, float)


def parse_training(argv, recipes):
    """Read the command line of nice.py: its arguments, and the recipe they make."""
    parser = Parser(
        prog="nice.py", description="Train NICE. Options override the recipe's values."
    )
    add = parser.add_argument
    add("--data", help=".npz file of images (default: MNIST, or the model's own)")
    add("--output", type=Path, default=MODEL.parent, help="folder to write to")
    add(
        "--recipe", choices=recipes, default="digits", help="model, and how to train it"
    )
    add("--start", type=Path, help="a model to go on from, in another folder")
    add(
        "--evaluate", action="store_true", help="only measure the output folder's model"
    )
    add("--fresh", action="store_true", help="start over in the output folder")
    add("--epochs", type=positive, help="passes over the training images")
    add("--batch-size", type=positive, help="images in a step")
    add("--learning-rate", type=not_negative_real, help="Adam's, at first")
    add("--seed", type=not_negative, help="of first weights, order and noise")
    add("--couplings", type=not_negative, help="number of couplings; 0: scaling alone")
    add("--hidden-layers", type=not_negative, help="hidden layers of each coupling's m")
    add("--hidden-units", type=positive, help="width of these layers")
    add("--noise", type=not_negative_real, help="width of the noise, in grey levels")
    add("--prior", choices=["gaussian", "logistic"], help="density of codes")
    args = parser.parse_args(argv)

    given = {name: value for name, value in vars(args).items() if value is not None}
    network = {name: given[name] for name in NETWORK if name in given}
    training = {name: given[name] for name in TRAINING if name in given}
    recipe = recipes[args.recipe]
    if args.start is None:
        model = {**recipe.model, **network}
    else:
        if network:
            parser.error(
                "--start takes the network from the model: leave out its options"
            )
        if args.evaluate:
            parser.error("--start trains and --evaluate does not: leave one out")
        if args.start.resolve().parent == args.output.resolve():
            parser.error("--start needs another --output than the folder of its model")
        model = {}
    return args, dataclasses.replace(recipe, model=model, **training)


def program(name):
    """Decorate the `main` of a program of this name.

    Its argv is that of the command line, unless it is called with another. What goes
    wrong becomes one line on stderr and an exit status: errors meant for the user,
    those of the system, and Ctrl-C. Any other error is a mistake in the code, and
    keeps its traceback.
    """

    def decorate(main):
        @functools.wraps(main)
        def run(argv=None):
            prepare_output()
            if argv is None:
                argv = sys.argv[1:]
            try:
                return main([str(word) for word in argv])
            except KeyboardInterrupt:
                return fail("stopped", 130)
            except UserError as error:
                return fail(error, 2)
            except OSError as error:
                return fail(error, 1)

        def fail(message, status):
            line = " ".join(str(message).split())
            print(f"{name}: {line}", file=sys.stderr)
            return status

        return run

    return decorate


def prepare_output():
    """Let no program end because its output cannot be shown."""
    if sys.stdout is None:  # as in pythonw
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # such as "±" where there is none
