"""Command lines: their options, and errors in one line."""

from support.errors import UserError

import argparse
import dataclasses
import functools
import inspect
import math
import os
import sys
from pathlib import Path

MODEL = Path("output") / "nice.keras"  # where nice.py writes and sample.py reads
LARGEST_SEED = 2**32 - 1  # of NumPy's


class Parser(argparse.ArgumentParser):
    def error(self, message):  # in one line, without the usage
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: {line}\n")


def between(least, most, kind):
    """Make an argparse type: a finite number of this kind, from `least` to `most`."""

    def number(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, got {text}")
        return value

    return number


not_negative = between(0, math.inf, int)
positive = between(1, math.inf, int)
not_negative_real = between(0.0, math.inf, float)
seed = between(0, LARGEST_SEED, int)


def path(text):
    """Make a path; "~" is the home folder, also where a shell leaves it as it is."""
    return Path(text).expanduser()


# The options of nice.py that override a recipe: a type and a line of help for each.
NETWORK = {  # arguments of `build_encoder`
    "couplings": (not_negative, "number of couplings; 0: scaling alone"),
    "hidden_layers": (not_negative, "hidden layers of each coupling's m"),
    "hidden_units": (positive, "width of these layers"),
    "noise": (not_negative_real, "width of the noise, in grey levels"),
    "prior": (str, "density of codes"),
}
TRAINING = {  # fields of `Recipe`
    "epochs": (positive, "passes over the training images"),
    "batch_size": (positive, "images in a step"),
    "learning_rate": (not_negative_real, "Adam's, at first"),
    "seed": (seed, "of first weights, order and noise"),
}


def parse_training(argv, recipes, build_encoder, priors):
    """Read the command line of nice.py: its arguments, and the recipe they make."""
    parser = Parser(
        prog="nice.py", description="Train NICE. Options override the recipe's values."
    )
    add = parser.add_argument
    add(
        "--data",
        type=path,
        help=".npz file of images (default: MNIST, or the model's own)",
    )
    add("--output", type=path, default=MODEL.parent, help="folder to write to")
    add(
        "--recipe", choices=recipes, help="model, and how to train it (default: digits)"
    )
    add("--start", type=path, help="a model to go on from, in another folder")
    add(
        "--evaluate", action="store_true", help="only measure the output folder's model"
    )
    add("--fresh", action="store_true", help="start over in the output folder")
    defaults = inspect.signature(build_encoder).parameters
    for name, (kind, text) in (TRAINING | NETWORK).items():
        choices = priors if name == "prior" else None
        if name in NETWORK:
            text = f"{text} (without a recipe: {defaults[name].default})"
        add("--" + name.replace("_", "-"), type=kind, choices=choices, help=text)
    args = parser.parse_args(argv)

    given = {name: value for name, value in vars(args).items() if value is not None}
    network = {name: given[name] for name in NETWORK if name in given}
    training = {name: given[name] for name in TRAINING if name in given}
    recipe = recipes[args.recipe or "digits"]
    trains = network or training or args.recipe or args.fresh or args.start
    if args.evaluate and trains:
        parser.error("--evaluate only measures: give it --output and --data alone")
    if args.start is None:
        model = {**recipe.model, **network}
    else:
        if network:
            parser.error(
                "--start takes the network from the model: leave out its options"
            )
        if args.start.resolve().parent == args.output.resolve():
            parser.error("--start needs another --output than the folder of its model")
        model = {}
    return args, dataclasses.replace(recipe, model=model, **training)


def verbose(elsewhere=0):
    """Keras's `verbose`: 1, a bar that moves, on a terminal, and another elsewhere."""
    terminal = os.isatty(1)  # of file 1, as not every sys.stdout can be asked
    return 1 if terminal else elsewhere


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
