#!/usr/bin/env python3
"""JAX's jit on the same task, from the same uint8 pixels.

    jax_gpu.py --alexnet ./alexnet -o jax.json --precisions float16 -b 1,256

Needs JAX and NumPy, and the program `alexnet` for weights and logits. It runs on JAX's first device, a GPU or the CPU, and the
record says which. With --budget it stops before the time is up and notes what it left out.
"""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

import gpu
import record as records
import task as tasks

# What products are computed in, and the type that values are stored in.
PRECISIONS = {
    "float32": ("highest", jnp.float32),
    "tf32": ("tensorfloat32", jnp.float32),
    "float16": (None, jnp.float16),
    "bfloat16": (None, jnp.bfloat16),
}


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
    parser = gpu.parser(__doc__)
    parser.add_argument("--precisions", **gpu.choices(PRECISIONS))
    args = parser.parse_args()
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
                pixels = jax.device_put(host)
                seconds = gpu.latency(lambda: np.asarray(classes(host)), *limits)
                record.add(records.result("jax", "jit, NHWC", "latency", precision, size, seconds))
                seconds = compute(classes, pixels, *limits)
                record.add(records.result("jax", "jit, NHWC", "compute", precision, size, seconds))
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
