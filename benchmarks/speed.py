"""How fast does NICE train and sample?  python -m benchmarks.speed

A training step of the full-size network beside the least that it can take on this machine (the
floor), and 225 digits by `sample.draw` beside the article's loop, on each installed backend. The
figures are medians over rounds: in each all is measured in turns, in processes of their own.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
FULL = {"batch": 128, "steps": 40, "matrix": 4096, "digits": 225}
QUICK = {"batch": 16, "steps": 2, "matrix": 256, "digits": 4}
WEIGHTS = 4 * (2 * 392 * 1000 + 4 * 1000**2)  # in the matrices of the four couplings


def best(f, repeats=3):
    """Seconds of the fastest of some calls: the one least disturbed by other work."""
    return min(timeit.repeat(f, number=1, repeat=repeats))


# --- Measurements, each in a process of its own, with one backend ----------------------------


def rates(sizes):
    """Operations a second of a large matrix product, and bytes a second of a large copy."""
    import nice

    n, cores = sizes["matrix"], os.cpu_count()
    x = nice.keras.random.uniform((n, n), 0, 2 / n)  # so that products stay near 1

    def repeat(f, times):  # for long enough: no step keeps up the rate of a short burst
        def chain(y=x):
            for _ in range(times):
                y = f(y)
            float(y[0, 0])  # waits for the device

        return best(chain) / times

    source, target = np.ones((2, n, n), "float32")
    parts = [slice(i * n // cores, (i + 1) * n // cores) for i in range(cores)]

    def copy_on_host(_):  # by all cores
        list(threads.map(lambda rows: np.copyto(target[rows], source[rows]), parts))
        return target

    with ThreadPoolExecutor() as threads:
        copy = min(repeat(lambda y: y + 1.0, 50), repeat(copy_on_host, 50))
    product = repeat(lambda y: nice.ops.matmul(x, y), 5)
    return {"operations": 2 * n**3 / product, "bytes": 2 * 4 * n**2 / copy}


def fit(sizes):
    """Seconds of a step of `fit`, fed as nice.py does it."""
    import nice
    from support import devices

    encoder, count = nice.build_encoder((28, 28)), sizes["steps"] * sizes["batch"]
    encoder.compile(nice.keras.optimizers.Adam(1e-3))
    x = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype="uint8")
    feed = nice.Batches(x, sizes["batch"]).feed()
    epoch = lambda: encoder.fit(feed, verbose=0, shuffle=False)  # noqa: E731
    epoch()  # compiles
    return {"step": best(epoch) / sizes["steps"], "device": devices.describe()}


def plain(sizes):
    """Seconds of a step of the same network and optimiser, in PyTorch without Keras."""
    import torch
    from torch import nn

    device, widths = "cuda:0" if torch.cuda.is_available() else "cpu", [392, *[1000] * 5, 392]
    networks = nn.ModuleList()
    for _ in range(4):
        pairs = zip(widths[:-1], widths[1:], strict=True)
        networks.append(nn.Sequential(*[m for p in pairs for m in (nn.Linear(*p), nn.ReLU())]))
    networks.to(device)
    log_scale = nn.Parameter(torch.zeros(784, device=device))
    adam = torch.optim.Adam([*networks.parameters(), log_scale], lr=1e-3)
    x = torch.rand(sizes["steps"] * sizes["batch"], 784, device=device)

    def epoch():
        for images in x.split(sizes["batch"]):
            h = images + torch.rand_like(images) / 256
            for m in networks:
                h = h.flip(1)
                x1, x2 = h[:, 0::2], h[:, 1::2]
                h = torch.stack([x1, x2 - m(x1)], 2).flatten(1)
            loss = 0.5 * (h * log_scale.exp()).square().sum(1).mean() - log_scale.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        loss.item()  # waits for the device

    epoch()
    return {"step": best(epoch) / sizes["steps"], "device": f"torch on {device}"}


def sampling(sizes):
    """Seconds for digits by `sample.draw`, and by the article's loop; both compile a decoder."""
    import nice
    import sample

    encoder = nice.build_encoder((28, 28))

    def loop():
        decoder = nice.build_decoder(encoder)
        for code in encoder.get_layer("prior").sample(sizes["digits"], 0.8):
            decoder.predict(code[None], verbose=0)

    draw = best(lambda: sample.draw(encoder, sizes["digits"], source="prior"))
    return {"draw": draw, "loop": best(loop, repeats=1)}


# --- The program -----------------------------------------------------------------------------

MEASUREMENTS = {f.__name__: f for f in (rates, fit, plain, sampling)}


def measure(name, backend, quick):
    """Run a measurement in a process of its own: its results, a dict."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", name, *["--quick"] * quick]
    environment, root = os.environ | {"KERAS_BACKEND": backend}, Path(__file__).parent.parent
    run = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def machine():
    """The processor, its cores and the GPUs, in words."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    if shutil.which("nvidia-smi"):
        name += ", " + subprocess.getoutput("nvidia-smi --query-gpu=name --format=csv,noheader")
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured")
    parser.add_argument("--quick", action="store_true", help="try the program: figures mean little")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure](sizes)))
        return
    print(machine(), flush=True)
    runs = [(name, b) for name in MEASUREMENTS for b in BACKENDS if name != "plain" or b == "torch"]
    rounds = [{run: measure(*run, args.quick) for run in runs} for _ in range(args.rounds)]

    def results(run, key):
        return [found[run][key] for found in rounds]

    operations = max(max(results(("rates", backend), "operations")) for backend in BACKENDS)
    moved = max(max(results(("rates", backend), "bytes")) for backend in BACKENDS)
    # A weight is multiplied and added once an image forwards, twice backwards: 6 operations. Adam
    # reads gradient, weight and two averages, of 4 bytes each, and writes all but the gradient.
    floor = 6 * WEIGHTS * sizes["batch"] / operations + 7 * 4 * WEIGHTS / moved
    print(f"floor: {1e3 * floor:.2f} ms a step of {sizes['batch']} images, ", end="")
    print(f"at {operations / 1e9:.0f} GFLOP/s and {moved / 1e9:.1f} GB/s\n")
    print("| training | ms a step | step / floor |\n|---|---|---|")
    for run in runs:
        if run[0] in ("fit", "plain"):
            name, step = f"{run[0]}, {results(run, 'device')[0]}", median(results(run, "step"))
            print(f"| {name} | {1e3 * step:.1f} | {step / floor:.2f} |")
    print(f"\n| {sizes['digits']} digits | draw, ms | loop, ms | loop / draw |\n|---|---|---|---|")
    for backend in BACKENDS:
        draw, loop = (median(results(("sampling", backend), key)) for key in ("draw", "loop"))
        print(f"| {backend} | {1e3 * draw:.0f} | {1e3 * loop:.0f} | {loop / draw:.1f} |")


if __name__ == "__main__":
    main()
