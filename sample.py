"""Draw images from a trained NICE model:  python sample.py

Codes drawn from the prior, decoded, are new images. Drawn at a temperature a little below 1,
that is from a narrower prior, they look better: the article chose 0.8 by eye.
"""

import argparse
import sys
from pathlib import Path

import imageio.v3 as imageio

from nice import build_decoder, draw_codes, first_line, grid, load_encoder, number, replace


def draw(encoder, rows, columns, temperature, seed):
    """Decode rows * columns random codes in one batch and tile the images.

    Returns:
        A uint8 picture of shape (rows * height, columns * width) or (..., 3).
    """
    codes = draw_codes(
        encoder.layers[-1].prior, rows * columns, encoder.output_shape[1], temperature, seed
    )
    images = build_decoder(encoder).predict_on_batch(codes)
    return grid(images, rows, columns)


def make_parser():
    parser = argparse.ArgumentParser(
        description="Draw images from a NICE model.", usage=argparse.SUPPRESS, allow_abbrev=False
    )
    size, real = number(int, 1), number(float, 0)
    parser.add_argument("--model", type=Path, default=Path("output/nice.keras"), help="its file")
    parser.add_argument("--output", type=Path, default=Path("output/samples.png"), help="picture")
    parser.add_argument("--temperature", type=real, default=0.8, help="0: the mode (default: 0.8)")
    parser.add_argument("--rows", type=size, default=15, help="default: 15")
    parser.add_argument("--columns", type=size, default=15, help="default: 15")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="default: 0")
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        encoder = load_encoder(args.model)
        picture = draw(encoder, args.rows, args.columns, args.temperature, args.seed)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        replace(args.output, lambda partial: imageio.imwrite(partial, picture))
    except (ValueError, OSError) as error:
        parser.error(first_line(error))
    print(f"{args.output}: {args.rows} x {args.columns} images, temperature {args.temperature:g}")


if __name__ == "__main__":
    sys.exit(main())
