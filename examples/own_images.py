"""Make a data file of your own images:  python -m examples.own_images FOLDER mine.npz

FOLDER holds a folder for each label, as in shapes/circle/*.png, or images only. They are put in
random order, a sixth of them to test with. The name of a data set, such as fashion_mnist, instead
of FOLDER makes a file of that; Keras downloads it.
"""

import sys
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np

from support import command_line


def read_folder(folder):
    """The images below a folder, all of one size, and the number of each one's folder."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    images = [imageio.imread(path) for path in paths]
    if len(sizes := {image.shape for image in images}) != 1:
        raise ValueError(f"{folder}: images must be of one size, found {sorted(sizes) or 'none'}")
    names, labels = np.unique([path.parent.name for path in paths], return_inverse=True)
    print(f"{len(images)} images; labels: {dict(enumerate(names.tolist()))}")
    images, order = np.stack(images), np.random.default_rng(0).permutation(len(images))
    test, train = np.split(order, [len(images) // 6])
    return (images[train], labels[train]), (images[test], labels[test])


@command_line.program
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of images, or a data set such as fashion_mnist")
    parser.add_argument("output", type=Path, help=".npz file to write")
    args = parser.parse_args(argv)
    if hasattr(keras.datasets, args.source) and not Path(args.source).is_dir():
        train, test = getattr(keras.datasets, args.source).load_data()
    else:
        train, test = read_folder(Path(args.source))
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*train, *test), strict=True))
    np.savez(args.output.with_suffix(".npz"), **arrays)
    print(f"next: python nice.py --data {args.output.with_suffix('.npz')} --output mine")


if __name__ == "__main__":
    sys.exit(main())
