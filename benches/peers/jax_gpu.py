#!/usr/bin/env python3
"""JAX's jit on the same task, from the same uint8 pixels.

    jax_gpu.py --alexnet ./alexnet -o jax.json --precisions float16 -b 1,256

Needs JAX and NumPy, and the program `alexnet` for weights and logits. It runs on JAX's first device, a GPU or the CPU, and the
record says which. With --budget it stops before the time is up and notes what it left out.
"""

import argparse
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

import record as records
import task as tasks

# What products are computed in, and the type that values are stored in.
PRECISIONS = {
    "float32": ("highest", jnp.float32),
    "tf32": ("tensorfloat32", jnp.float32),
    "float16": (None, jnp.float16),
    "bfloat16": (None, jnp.bfloat16),
}
MODES = ("latency", "compute")


def network(task, dtype):
    """A function of parameters and pixels to logits, and the parameters: NHWC, filters RSCK."""
    bgr, mean, deviation = tasks.normalisation(task.variant)
    parameters = {
        number: (jnp.asarray(filter.transpose(2, 3, 1, 0) if filter.ndim == 4 else filter.T, dtype), jnp.asarray(bias, dtype))
        for number, (filter, bias) in task.weights.items()
    }

    def normalise(x, k, towers):
        squares = jnp.square(x.astype(jnp.float32))
        squares = squares.reshape(*x.shape[:3], towers, -1)
        padded = jnp.pad(squares, ((0, 0),) * 4 + ((2, 2),))
        channels = squares.shape[-1]
        sums = sum(padded[..., shift : shift + channels] for shift in range(5)).reshape(x.shape)
        return (x / (k + 1e-4 / 5 * sums) ** 0.75).astype(x.dtype)

    def logits(parameters, pixels):
        x = pixels[..., ::-1] if bgr else pixels
        x = ((x.astype(jnp.float32) - mean) / deviation).astype(dtype)
        for layer in tasks.layers(task.variant):
            if layer[0] == "conv":
                _, number, _, stride, padding, groups = layer
                filter, bias = parameters[number]
                x = jax.lax.conv_general_dilated(
                    x,
                    filter,
                    (stride, stride),
                    [(padding, padding)] * 2,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                )
                x = jax.nn.relu(x + bias)
            elif layer[0] == "lrn":
                x = normalise(x, *layer[1:])
            elif layer[0] == "pool":
                least = jnp.asarray(-jnp.inf, x.dtype)
                x = jax.lax.reduce_window(x, least, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
            else:
                filter, bias = parameters[layer[1]]
                # Features are flattened in NCHW's order, as the weights are.
                x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1) if x.ndim == 4 else x
                x = x @ filter + bias
                x = jax.nn.relu(x) if layer[1] < 8 else x
        return x

    return logits, parameters


def latency(classes, host, duration, least, warm_up):
    """Seconds of one batch at a time, from the host's pixels to classes on the host."""
    seconds, begin, warm = [], None, time.perf_counter()
    while begin is None or len(seconds) < least or time.perf_counter() - begin < duration:
        started = time.perf_counter()
        np.asarray(classes(host))
        now = time.perf_counter()
        if begin is not None:
            seconds.append(now - started)
        elif now - warm >= warm_up:
            begin = now
    return seconds


def compute(classes, pixels, duration, least, warm_up):
    """Seconds from one result to the next, four batches queued; pixels lie on the device."""
    warm = time.perf_counter()
    while time.perf_counter() - warm < warm_up:
        classes(pixels).block_until_ready()
    queued = [classes(pixels) for _ in range(4)]
    queued.pop(0).block_until_ready()
    seconds, begin = [], time.perf_counter()
    last = begin
    while len(seconds) < least or last - begin < duration:
        queued.append(classes(pixels))
        queued.pop(0).block_until_ready()
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words = lambda text: text.split(",")
    parser.add_argument("--alexnet", required=True, help="the program")
    parser.add_argument("-o", "--output", required=True, help="the record")
    parser.add_argument("--model", default="torchvision", choices=tasks.VARIANTS)
    parser.add_argument("--precisions", type=words, default=list(PRECISIONS))
    parser.add_argument("-b", "--batch-sizes", type=words, default="1,8,32,64,128,256,512,1024".split(","))
    parser.add_argument("--duration", type=float, default=1.0, help="seconds a measurement")
    parser.add_argument("--iterations", type=int, default=10, help="steps a measurement at least")
    parser.add_argument("--warmup", type=float, default=0.2, help="seconds")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds in all")
    parser.add_argument("--folder", default="target/peers", help="where weights, pictures and logits lie")
    args = parser.parse_args()
    for name in args.precisions:
        if name not in PRECISIONS:
            parser.error(f"'{name}' is none of {', '.join(PRECISIONS)}")
    begin = time.monotonic()
    task = tasks.prepare(args.alexnet, args.model, args.folder)
    on_gpu = jax.default_backend() == "gpu"
    device = jax.devices()[0]
    name = device.device_kind if on_gpu else None
    machine = records.machine(f"jax {jax.__version__}", f"{device.platform}:{device.id} ({device.device_kind})", {"jax": jax.__version__}, name)
    notes = [
        "From uint8 pixels (N, H, W, 3) to the best class, NHWC, one jit; logits agree with alexnet's.",
        "Compute queues four batches and leaves classes on the device, where alexnet copies them back.",
    ]
    record = records.Record(args.output, machine, task.subject(machine["cores"]), args.warmup, args.duration, args.iterations, notes)
    left_out, disagree = [], False
    for precision, size in itertools.product(args.precisions, map(int, args.batch_sizes)):
        name = f"jit, {precision}, batch {size}"
        if not on_gpu and precision == "tf32":
            left_out.append(f"{name} (needs a GPU)")
            continue
        if time.monotonic() - begin > args.budget:
            left_out.append(name)
            continue
        products, dtype = PRECISIONS[precision]
        host = task.batch(size)
        try:
            with jax.default_matmul_precision(products) if products else jax.default_matmul_precision("default"):
                function, parameters = network(task, dtype)
                task.check(np.asarray(jax.jit(function)(parameters, host), np.float32), precision)
                jitted = jax.jit(lambda parameters, pixels: function(parameters, pixels).argmax(1))
                classes = lambda pixels: jitted(parameters, pixels)
                limits = (args.duration, args.iterations, args.warmup)
                for mode, measure, pixels in (("latency", latency, host), ("compute", compute, jax.device_put(host))):
                    seconds = measure(classes, pixels, *limits)
                    record.add(records.result("jax", "jit, NHWC", mode, precision, size, seconds))
        except tasks.Disagreement as error:
            left_out.append(f"{name} ({error})")
            disagree = True
        except jax.errors.JaxRuntimeError as error:
            left_out.append(f"{name} ({str(error).splitlines()[0]})")
    for name in left_out:
        record.note(f"left out: {name}")
    record.write()
    if disagree:
        raise SystemExit("some logits disagree, see the notes")


if __name__ == "__main__":
    main()
