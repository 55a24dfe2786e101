"""How close to the machine's limits does NICE train and sample?  python benchmarks/speed.py

Ratios, all measured in one run, each measurement in a process of its own, those of a step's time
in turns. The floor is what the machine itself allows: the arithmetic of the step's matrix
products at the rate of one large matrix product, plus the bytes that Adam must move at the rate
of one large copy, both at the best rate that any of the backends installed reaches here. A
backend's own floor has the rate of its own large product, which need not be the fastest.

Parts, all of them by default: training, sampling, growth (with batch, width and depth), memory.
On two cores the first three take about twenty minutes, memory another forty.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
BATCHES = (32, 128, 512, 1024, 4096)
WIDTHS = (250, 500, 1000, 2000)
COUPLINGS = (1, 2, 4, 8)
SETS = (1000, 60000, 600000)
RUNS = (
    (60000, "digits"),
    (60000, "paper"),
    (60000, "likelihood"),
    (600000, "digits"),
)
PARTS = ("training", "sampling", "growth", "memory")
ARTICLE = {"batch": 128, "width": 1000, "couplings": 4}


# --- What is measured, each in a process with one backend -------------------------------------


def seconds(f, repeats):
    """The best of some timings of f: on a machine with other work, the least disturbed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_rates(nice):
    """Multiply-adds count as 2 operations; a copy reads and writes every byte.

    Each is timed over seconds, as the steps are: no step can keep up the pace of one burst.
    """
    keras, ops = nice.keras, nice.ops
    n = 4096
    x = keras.random.uniform((n, n))

    def wait(y):
        return float(y[0, 0])

    def mean_seconds(f, times):
        return seconds(lambda: [f() for _ in range(times)], 3) / times

    product = mean_seconds(lambda: wait(ops.matmul(x, x)), 5)
    copy = mean_seconds(lambda: wait(x + 1.0), 50)  # on the device, though into fresh memory
    source, target = np.ones((2, n, n), "float32")
    parts = np.array_split(np.arange(n), os.cpu_count())

    def copy_part(rows):
        np.copyto(target[rows[0] : rows[-1] + 1], source[rows[0] : rows[-1] + 1])

    with ThreadPoolExecutor() as threads:  # in the host's, on all cores
        copy = min(copy, mean_seconds(lambda: list(threads.map(copy_part, parts)), 300))
    return {"flops": 2 * n**3 / product, "bytes": 2 * 4 * n * n / copy}


def measure_step(nice, batch, width, couplings, repeats=3):
    """Seconds for one step of `fit`, with the default's noise, and Adam at a falling rate."""
    from support.batches import Batches

    recipe = nice.Recipe(couplings=couplings, hidden_units=width)
    encoder = nice.build_encoder((28, 28), recipe)
    rate = nice.keras.optimizers.schedules.CosineDecay(recipe.learning_rate, 1000)
    encoder.compile(nice.keras.optimizers.Adam(rate))
    steps = max(3, min(40, 5000 // batch))  # many, as what an epoch itself costs is no step's
    x = np.random.default_rng(0).integers(0, 256, (steps * batch, 28, 28), dtype="uint8")

    def fit():
        batches = Batches(x, batch_size=batch)
        encoder.fit(batches.feed(), verbose=0, shuffle=False)

    start = time.perf_counter()
    fit()
    compiling = time.perf_counter() - start
    step = seconds(fit, repeats) / steps
    return {"step": step, "compile": compiling - steps * step}


def measure_sampling(nice):
    """The article's loop, one `predict` an image, against our one batch; and a large batch."""
    import sample

    encoder = nice.build_encoder((28, 28), nice.Recipe())
    prior = encoder.get_layer("prior")
    codes = prior.sample(225, 0.8)

    def article():
        decoder = nice.build_decoder(encoder)
        return [decoder.predict(code[None], verbose=0) for code in codes]

    grid = seconds(lambda: sample.decode(encoder, codes.reshape(15, 15, -1)), 1)
    loop = seconds(article, 1)
    many = prior.sample(10000, 0.8)
    decoder = nice.build_decoder(encoder)
    decoder.predict_on_batch(many)
    return {
        "grid": grid,
        "loop": loop,
        "decode": seconds(lambda: decoder.predict_on_batch(many), 3),
    }


def measure_file(images, path):
    """Write a file of random images (not in the parent: children seem no smaller than it was)."""
    x = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype="uint8")
    np.savez(path, x_train=x, x_test=x[:1000])
    return {"bytes": x.nbytes + x[:1000].nbytes}


def measure_run(path, recipe):
    """A whole run of nice.py as a user starts it, an epoch of a small network."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, ROOT / "nice.py", "--data", path, "--output", output]
        command += ["--recipe", recipe, "--epochs", "1", "--couplings", "2", "--hidden-units", "32"]
        subprocess.run(command, stdout=sys.stderr, check=True)
    return {}


def measure_plain_pytorch(batch=128, repeats=3):
    """Seconds for one step of the same network and optimiser, written without Keras."""
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def network():
        sizes = [392, *[1000] * 5, 392]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers)

    networks = nn.ModuleList([network() for _ in range(4)]).to(device)
    log_scale = nn.Parameter(torch.zeros(784, device=device))
    adam = torch.optim.Adam([*networks.parameters(), log_scale], lr=1e-3)
    steps = 40
    x = torch.rand(steps * batch, 784, device=device)

    def epoch():
        for images in x.split(batch):
            h = images + torch.rand_like(images) / 256
            for m in networks:
                h = h.flip(1)
                x1, x2 = h[:, 0::2], h[:, 1::2]
                h = torch.stack([x1, x2 - m(x1)], 2).flatten(1)
            z = h * log_scale.exp()
            loss = 0.5 * z.square().sum(1).mean() - log_scale.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        loss.item()  # waits for the device

    epoch()
    return {"step": seconds(epoch, repeats) / steps, "compile": 0}


def peak_memory(children=False):
    """The largest resident size of this process, or of its children, so far, in bytes.

    Not a number where no one can say.
    """
    if not importlib.util.find_spec("resource"):  # Windows
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    whose = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(whose).ru_maxrss * unit


def measure(what, options):
    sys.path.insert(0, str(ROOT))
    from support import memory

    memory.keep()  # as the programs do
    if what not in ("plain", "file", "run"):
        import nice
    result = {
        "plain": measure_plain_pytorch,
        "rates": lambda: measure_rates(nice),
        "step": lambda: measure_step(nice, **options),
        "sampling": lambda: measure_sampling(nice),
        "file": lambda: measure_file(**options),
        "run": lambda: measure_run(**options),
        "model": lambda: {
            "model": nice.build_encoder((28, 28), nice.Recipe()).save(options["path"])
        },
    }[what]()
    return result | {"memory": peak_memory(children=what == "run")}


# --- The run, and its table -------------------------------------------------------------------


def child(backend, what, **options):
    """Measure something in a new process; None if that fails, say for want of memory."""
    command = [sys.executable, __file__, "--measure", what, "--options", json.dumps(options)]
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        print(f"{backend}: {what} {options} failed: {run.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def startup(backend, model, output):
    """Seconds from the shell to the grid of digits."""
    command = [sys.executable, ROOT / "sample.py", "--model", model, "--output", output]
    environment = os.environ | {"KERAS_BACKEND": backend}
    return seconds(
        lambda: subprocess.run(command, env=environment, capture_output=True, check=True), 2
    )


def matrices(width, couplings):
    """The number of entries in the couplings' matrices."""
    return couplings * (2 * 392 * width + 4 * width**2)


def floor(rates, batch, width, couplings):
    """Seconds that a training step takes at the least.

    Forwards a matrix product is 2 operations an entry and image, backwards 4; Adam reads
    gradient, weight and two averages of each entry and writes all but the gradient back.
    """
    entries = matrices(width, couplings)
    return 6 * entries * batch / rates["flops"] + 7 * 4 * entries / rates["bytes"]


def machine():
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def heading(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))


def row(name, *cells):
    print("|", " | ".join([name, *(c if isinstance(c, str) else f"{c:.2f}" for c in cells)]), "|")


def training(fastest, own, steps, plain):
    heading("training, batch 128", "step / floor", "/ own floor", "compiling, steps", "peak MiB")
    for label, measured in (("`fit` on {}", steps), ("plain loop on {}", plain)):
        for name in measured:
            good = [s for s in measured[name] if s]
            step = min(s["step"] for s in good)
            limits = [
                floor(fastest | {"flops": f}, **ARTICLE) for f in (fastest["flops"], own[name])
            ]
            compiling = max(0, min(s["compile"] for s in good)) / step
            memory = min(s["memory"] for s in good) / 2**20
            ratios = [step / limit for limit in limits]
            row(label.format(name), *ratios, f"{compiling:.0f}", f"{memory:.0f}")


def sampling(backends, fastest, own):
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "nice.keras", Path(folder) / "samples.png"
        child(backends[0], "model", path=str(model))
        starts = {name: startup(name, model, picture) for name in backends}
    sample = f"`sample.py` / {backends[0]}'s {starts[backends[0]]:.1f} s"
    heading("sampling", "225 images, loop / batch", "10,000 / floor", "/ own floor", sample)
    work = 2 * matrices(1000, 4) * 10000
    for name in backends:
        s = child(name, "sampling")
        if not s:
            continue
        decode = [s["decode"] * flops / work for flops in (fastest["flops"], own[name])]
        row(name, s["loop"] / s["grid"], *decode, starts[name] / starts[backends[0]])


def growth(best, fastest):
    heading(f"training on {best}", "step / the first", "step / floor", "peak MiB")
    cases = [ARTICLE]
    cases += [ARTICLE | {"batch": n} for n in BATCHES if n != 128]
    cases += [ARTICLE | {"width": n} for n in WIDTHS if n != 1000]
    cases += [ARTICLE | {"couplings": n} for n in COUPLINGS if n != 4]
    first = None
    for case in cases:
        s = child(best, "step", repeats=2, **case)
        if not s:
            continue
        first = first or s["step"]
        name = "{batch} images, {couplings} couplings of width {width}".format(**case)
        ratios = s["step"] / first, s["step"] / floor(fastest, **case)
        row(name, *ratios, f"{s['memory'] / 2**20:.0f}")


def memory(backends, rounds):
    """Peak memory of a run above that of one on hardly any images, by the size of the images.

    That one trains for a few steps and has as many test images. Medians of some runs: a single
    one may be 20 MB off.
    """
    heading("memory / images", *[f"{images:,}, `{recipe}`" for images, recipe in RUNS])
    with tempfile.TemporaryDirectory() as folder:
        paths = {images: str(Path(folder) / f"{images}.npz") for images in SETS}
        sizes = {n: child(backends[0], "file", images=n, path=paths[n])["bytes"] for n in SETS}

        def peak(name, images, recipe):
            runs = [child(name, "run", path=paths[images], recipe=recipe) for _ in range(rounds)]
            found = [run["memory"] for run in runs if run]
            return statistics.median(found) if found else math.nan

        for name in backends:
            empty = {recipe: peak(name, SETS[0], recipe) for recipe in {r for _, r in RUNS}}
            row(
                name,
                *[
                    (peak(name, images, recipe) - empty[recipe]) / (sizes[images] - sizes[SETS[0]])
                    for images, recipe in RUNS
                ],
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="which of " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.options)))
        return
    parts = args.parts or PARTS
    if not set(parts) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}")

    backends = [name for name in BACKENDS if importlib.util.find_spec(name)]
    print(f"{machine()}; backends: {', '.join(backends)}\n", flush=True)
    if set(parts) - {"memory"}:
        rates, steps = {name: [] for name in backends}, {name: [] for name in backends}
        plain = {"torch": []} if "torch" in backends else {}
        for _ in range(args.rounds):  # in turns, so that a slow minute hits them all
            for name in backends:
                rates[name].append(child(name, "rates"))
                steps[name].append(child(name, "step", **ARTICLE))
            for name in plain:
                plain[name].append(child(name, "plain"))
        backends = [name for name in backends if any(rates[name]) and any(steps[name])]
        steps = {name: steps[name] for name in backends}
        plain = {name: plain[name] for name in plain if any(plain[name])}
        own = {name: max(r["flops"] for r in rates[name] if r) for name in backends}
        fastest = {
            "flops": max(own.values()),
            "bytes": max(r["bytes"] for name in backends for r in rates[name] if r),
        }
        print(
            f"floor: {fastest['flops'] / 1e9:.0f} GFLOP/s, {fastest['bytes'] / 1e9:.1f} GB/s; a "
            f"step of batch 128 takes {1e3 * floor(fastest, **ARTICLE):.0f} ms at the least"
        )
    if "training" in parts:
        training(fastest, own, steps, plain)
    if "sampling" in parts:
        sampling(backends, fastest, own)
    if "growth" in parts:
        growth(min(backends, key=lambda name: min(s["step"] for s in steps[name] if s)), fastest)
    if "memory" in parts:
        memory(backends, args.rounds)


if __name__ == "__main__":
    main()
