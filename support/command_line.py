"""Command lines: argument types, and errors in one line."""

import argparse
import dataclasses
import inspect
import math
import os
import shlex
import subprocess
from pathlib import Path

from support.data import MNIST

MODEL = Path("output") / "nice.keras"


def at_least(least, kind):
    """Make an argparse type: a finite number of this kind, not below `least`."""

    def parse(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    parse.__name__ = kind.__name__  # for argparse's "invalid int value"
    return parse


size, seed, real = at_least(1, int), at_least(0, int), at_least(0, float)

OPTIONS = {  # of pictures
    "rows": {"type": size, "metavar": "N", "help": "rows of images"},
    "columns": {"type": size, "metavar": "N", "help": "columns of images"},
    "temperature": {"type": real, "metavar": "T", "help": "how widely codes are spread"},
    "source": {"choices": ("fitted", "prior"), "help": "density that codes are drawn from"},
    "dimensions": {"type": size, "metavar": "N", "help": "how many of each kind to show"},
    "count": {"type": size, "metavar": "N", "help": "images to average over"},
    "steps": {"type": size, "metavar": "N", "help": "of gradient ascent"},
    "couplings": {"type": size, "metavar": "N", "help": "layers of the flow"},
    "epochs": {"type": size, "metavar": "N", "help": "passes over the points"},
    "seed": {"type": seed, "metavar": "N", "help": "of all random numbers"},
}


class Parser(argparse.ArgumentParser):
    """An argparse parser that puts an error in one line, without the usage."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(str(message).split())}\n")


def model_option(model):
    """The option that makes sample.py draw from this model, quoted for a shell; "" by default."""
    quote = shlex.quote if os.name == "posix" else lambda text: subprocess.list2cmdline([text])
    join = "=" if str(model).startswith("-") else " "  # or it would look like another option
    return "" if model == MODEL else f" --model{join}{quote(str(model))}"


def training_parser(recipes, priors):
    """The command line of nice.py, with an option for most fields of a recipe.

    Args:
        recipes: dict from names to recipes, the default first; dataclasses alike.
        priors: the names of the priors.
    """
    parser = Parser(prog="nice.py", description="Train NICE on images.")
    parser.add_argument(
        "--data",
        default=MNIST,
        help=".npz file, integers 0...255, or Keras data set (default: MNIST)",
    )
    parser.add_argument("--output", type=Path, default=MODEL.parent, help="folder to write to")
    parser.add_argument("--evaluate", action="store_true", help="only measure the output's model")
    parser.add_argument("--fresh", action="store_true", help="start over in the output folder")
    parser.add_argument(
        "--recipe", choices=recipes, default=next(iter(recipes)), help="set of values for:"
    )
    parser.add_argument("--prior", choices=priors, help="density of the codes")
    kinds = {"epochs": size, "batch_size": size, "learning_rate": real, "noise": real}
    kinds |= {"couplings": size, "hidden_layers": size, "hidden_units": size, "seed": seed}
    for name, kind in kinds.items():
        values = ", ".join(f"{getattr(recipe, name):.4g} {key}" for key, recipe in recipes.items())
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=values)
    return parser


def override(recipe, args):
    """The recipe, with those of its fields changed that the command line gives."""
    names = [field.name for field in dataclasses.fields(recipe)]
    given = {name: value for name, value in vars(args).items() if value is not None}
    return dataclasses.replace(recipe, **{name: given[name] for name in names if name in given})


def parameters(function):
    """A picture's parameters: the names of its inputs, and its options with their defaults."""
    every = inspect.signature(function).parameters.values()
    options = {p.name: p.default for p in every if p.kind is p.KEYWORD_ONLY}
    return [p.name for p in every if p.name not in options], options


def parse_picture(argv, pictures):
    """Read the command line of sample.py: a picture, and the options that it takes.

    The picture's name may stand anywhere, and may be missing: then it is the first. So
    `sample.py --seed 3 anneal` means `sample.py anneal --seed 3`.

    Args:
        pictures: dict from names to functions. Their docstrings' first lines and their keywords
            make the help.
    """
    parser = Parser(
        prog="sample.py", description="Draw from a trained NICE model, and look inside it."
    )
    commands = parser.add_subparsers(dest="picture", metavar="picture", parser_class=Parser)
    for name, function in pictures.items():
        summary = function.__doc__.splitlines()[0]
        command = commands.add_parser(name, prog="sample.py", help=summary, description=summary)
        needs, options = parameters(function)
        if "encoder" in needs:
            command.add_argument("--model", type=Path, default=MODEL, help=f"default: {MODEL}")
        else:
            command.set_defaults(model=MODEL)
        if "x_test" in needs:
            command.add_argument("--data", default=MNIST, help="where real images come from")
        command.add_argument("--output", type=Path, help="default: beside the model")
        for option, default in options.items():
            settings = dict(OPTIONS[option])
            settings["help"] += f" (default: {default})"
            command.add_argument(f"--{option}", default=default, **settings)
    if argv[:1] in (["-h"], ["--help"]):
        return parser.parse_args(argv)
    for i, word in enumerate(argv):
        value = i > 0 and argv[i - 1].startswith("-") and "=" not in argv[i - 1]
        if word in pictures and not value:
            return parser.parse_args([word, *argv[:i], *argv[i + 1 :]])
    if argv and not argv[0].startswith("-"):
        parser.error(f"no picture {argv[0]!r}; there are {', '.join(pictures)}")
    return parser.parse_args([next(iter(pictures)), *argv])
