"""How fast does NICE train and sample?  python -m benchmarks.speed

A training step of the full-size network beside the least that it can take on this
machine (the floor), and 225 digits by `Flow.sample` beside the article's loop, on each
installed backend. The figures are medians over rounds: in each all is measured in
turns, in processes of their own.
"""

from support import command_line

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

BACKENDS = [
    name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)
]
FULL = {"batch": 128, "steps": 40, "matrix": 4096, "digits": 225}
QUICK = {"batch": 16, "steps": 2, "matrix": 256, "digits": 4}
WEIGHTS = 4 * (2 * 392 * 1000 + 4 * 1000**2)  # in the matrices of the four couplings
FLOAT = 4  # bytes


def best(f, repeats=3):
    """Seconds of the fastest of some calls: the one least disturbed by other work."""
    return min(timeit.repeat(f, number=1, repeat=repeats))


# --- Measurements, each in a process of its own, with one backend --------------------


def rates(sizes):
    """What the machine can do: operations and bytes a second.

    Operations are those of a large matrix product. Bytes are those of a large copy, on
    the device or by all cores of the host, whichever is faster.
    """
    import keras

    n = sizes["matrix"]
    x = keras.random.uniform((n, n), 0, 2 / n)  # so that products stay near 1
    source = np.ones((n, n), "float32")
    target = np.ones((n, n), "float32")
    cores = os.cpu_count()
    parts = [slice(i * n // cores, (i + 1) * n // cores) for i in range(cores)]
    threads = ThreadPoolExecutor()

    def multiply(y):
        return keras.ops.matmul(x, y)

    def copy_on_device(y):
        return y + 1.0

    def copy_part(rows):
        np.copyto(target[rows], source[rows])

    def copy_on_host(y):
        list(threads.map(copy_part, parts))
        return target

    # A chain of calls, as no long step keeps up the rate of a short burst.
    def seconds(f, calls):
        def chain():
            y = x
            for _ in range(calls):
                y = f(y)
            float(y[0, 0])  # waits for the device

        return best(chain) / calls

    product = seconds(multiply, 5)
    copy = min(seconds(copy_on_device, 50), seconds(copy_on_host, 50))
    return {"operations": 2 * n**3 / product, "bytes": 2 * FLOAT * n**2 / copy}


def fit(sizes):
    """Seconds of a step of `fit`, fed as nice.py does it."""
    from support import backends, devices

    import nice

    import keras

    model = nice.build_encoder((28, 28))
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=backends.use_xla())
    count = sizes["steps"] * sizes["batch"]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), dtype="uint8")
    batches = nice.Batches(images, sizes["batch"])

    def epoch():
        model.fit(batches, verbose=0)

    epoch()  # compiles
    return {"step": best(epoch) / sizes["steps"], "device": devices.describe()}


def plain(sizes):
    """Seconds of a step of the same network and optimiser, in PyTorch without Keras."""
    import torch
    from torch import nn

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    widths = [392, 1000, 1000, 1000, 1000, 1000, 392]
    networks = nn.ModuleList()
    for _ in range(4):
        m = nn.Sequential()
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            m.append(nn.Linear(inputs, outputs))
            m.append(nn.ReLU())
        networks.append(m)
    networks.to(device)
    log_s = nn.Parameter(torch.zeros(784, device=device))
    adam = torch.optim.Adam([*networks.parameters(), log_s], lr=1e-3)
    x = torch.rand(sizes["steps"] * sizes["batch"], 784, device=device)

    def epoch():
        for images in x.split(sizes["batch"]):
            h = images + torch.rand_like(images) / 256
            for m in networks:
                h = h.flip(1)
                x1 = h[:, 0::2]
                x2 = h[:, 1::2]
                h = torch.stack([x1, x2 - m(x1)], 2).flatten(1)
            z = h * log_s.exp()
            loss = 0.5 * z.square().sum(1).mean() - log_s.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        loss.item()  # waits for the device

    epoch()
    return {"step": best(epoch) / sizes["steps"], "device": f"torch on {device}"}


def sampling(sizes):
    """Seconds for digits by `Flow.sample`, and by the article's loop."""
    import nice

    model = nice.build_encoder((28, 28))
    count = sizes["digits"]

    def draw():
        model.sample(count)

    def loop():
        for code in model.sample_codes(count):
            model.decoder.predict(code[None], verbose=0)

    # The loop runs once: it takes long, and compiles the decoder as the article's does.
    return {"draw": best(draw), "loop": best(loop, repeats=1)}


MEASUREMENTS = {"rates": rates, "fit": fit, "plain": plain, "sampling": sampling}


# --- The program ---------------------------------------------------------------------


def measure(name, backend, quick):
    """Run a measurement in a process of its own: its results, a dict."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", name]
    if quick:
        command.append("--quick")
    run = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def machine():
    """The processor, its cores and the GPUs, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                _, name = line.split(": ")
    if shutil.which("nvidia-smi"):
        query = "nvidia-smi --query-gpu=name --format=csv,noheader"
        name += ", " + subprocess.getoutput(query)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def floor(operations, moved, batch):
    """The fewest seconds that a training step can take.

    Args:
        operations: that the machine does in a second.
        moved: bytes that it moves in a second.
        batch: images in a step.
    """
    # For each image a weight is multiplied and added once forwards, twice backwards.
    arithmetic = 6 * WEIGHTS * batch / operations
    # Adam reads gradient, weight and two averages, and writes all but the gradient.
    memory = 7 * FLOAT * WEIGHTS / moved
    return arithmetic + memory


@command_line.program("benchmarks.speed")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=command_line.positive, default=3, help="how often, all in all")
    add("--quick", action="store_true", help="try the program: figures mean little")
    add("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else FULL
    if args.measure:
        measured = MEASUREMENTS[args.measure](sizes)
        print(json.dumps(measured))
        return 0
    print(machine(), flush=True)

    rounds = []
    for _ in range(args.rounds):
        found = {}
        for name in MEASUREMENTS:
            for backend in BACKENDS:
                if name != "plain" or backend == "torch":
                    found[name, backend] = measure(name, backend, args.quick)
        rounds.append(found)

    def results(name, backend, key):
        return [found[name, backend][key] for found in rounds]

    operations = []
    moved = []
    for backend in BACKENDS:
        operations += results("rates", backend, "operations")
        moved += results("rates", backend, "bytes")
    operations = max(operations)
    moved = max(moved)
    least = floor(operations, moved, sizes["batch"])
    print(f"floor: {1e3 * least:.2f} ms a step of {sizes['batch']} images, ", end="")
    print(f"at {operations / 1e9:.0f} GFLOP/s and {moved / 1e9:.1f} GB/s\n")

    print("| training | ms a step | step / floor |\n|---|---|---|")
    trained = [("fit", backend) for backend in BACKENDS]
    if "torch" in BACKENDS:
        trained.append(("plain", "torch"))
    for name, backend in trained:
        device = results(name, backend, "device")[0]
        step = median(results(name, backend, "step"))
        print(f"| {name}, {device} | {1e3 * step:.1f} | {step / least:.2f} |")

    print(f"\n| {sizes['digits']} digits | draw, ms | loop, ms | loop / draw |")
    print("|---|---|---|---|")
    for backend in BACKENDS:
        draw = median(results("sampling", backend, "draw"))
        loop = median(results("sampling", backend, "loop"))
        ratio = loop / draw
        print(f"| {backend} | {1e3 * draw:.0f} | {1e3 * loop:.0f} | {ratio:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
