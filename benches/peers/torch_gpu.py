#!/usr/bin/env python3
"""PyTorch on the same task, from the same uint8 pixels, in every way that it is used for speed.

    torch_gpu.py --alexnet ./alexnet -o torch.json --configurations channels_last,graph --precisions float16

Needs PyTorch with CUDA and NumPy, and the program `alexnet` for weights and logits. --device cpu runs what needs no GPU, to see
that the script works. With --budget it stops before the time is up and notes what it left out.
"""

import itertools
import time

import torch

import gpu
import record as records
import task as tasks
from torch_network import Network

CONFIGURATIONS = {
    "eager": "eager, NCHW",
    "channels_last": "eager, channels_last",
    "compile": "torch.compile max-autotune, channels_last",
    "graph": "CUDA graph of eager, channels_last",
}
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MODES = ("latency", "compute", "copied")


class Runner:
    """A network, ready for one batch size: `enqueue` computes logits and classes of the pixels in `pixels`, on the device."""

    def __init__(self, network, configuration, pixels):
        def both(pixels):
            logits = network(pixels)
            return logits, logits.argmax(1)

        self.pixels = pixels
        call = torch.compile(both, mode="max-autotune", dynamic=False) if configuration == "compile" else both
        self.call = lambda: call(self.pixels)
        self.graph = None
        if configuration == "graph":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.call()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.results = self.call()

    def enqueue(self):
        if self.graph is None:
            return self.call()
        self.graph.replay()
        return self.results

    def logits(self):
        return self.enqueue()[0].float().cpu().numpy()

    def classes(self):
        return self.enqueue()[1]


class Clock:
    """Times of steps on the device's own clock, or the host's where there is none."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        return begin.elapsed_time(end) / 1e3 if self.cuda else end - begin

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()


# Steps queued ahead of the device: a driver takes about a thousand kernels, and then holds up whoever queues more.
AHEAD = 16


def steps(run, clock, duration, least, warm_up):
    """Seconds between the ends of steps that are queued one behind the other, at most `AHEAD` ahead of the device."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_up:
        run()
        clock.wait()
    marks, enqueue = [clock.mark()], []
    begin = time.perf_counter()
    while len(marks) <= least or time.perf_counter() - begin < duration:
        queued = time.perf_counter()
        run()
        enqueue.append((time.perf_counter() - queued) * 1e3)
        marks.append(clock.mark())
        if clock.cuda and len(marks) > AHEAD:
            marks[-AHEAD].synchronize()
    clock.wait()
    return [clock.seconds(a, b) for a, b in itertools.pairwise(marks)], enqueue


def measure(runner, mode, host, clock, args):
    """Seconds a step, and milliseconds of its parts."""
    limits = (args.duration, args.iterations, args.warmup)
    if mode == "latency":

        def run():
            runner.pixels.copy_(host, non_blocking=True)
            runner.classes().cpu()

        return gpu.latency(run, *limits), {}
    if mode == "compute":
        seconds, enqueue = steps(runner.enqueue, clock, *limits)
        return seconds, {"enqueue_ms": enqueue}
    # Copied: into one of two buffers on a stream of its own, while the other is computed. A graph reads one address, so pixels
    # go on from there by a copy within the device.
    copies, current = torch.cuda.Stream(), torch.cuda.current_stream()
    buffers = [torch.empty_like(runner.pixels) for _ in range(2)]
    free = [torch.cuda.Event() for _ in range(2)]
    turn = itertools.cycle(range(2))
    for event in free:
        event.record(current)

    def run():
        number = next(turn)
        with torch.cuda.stream(copies):
            copies.wait_event(free[number])
            buffers[number].copy_(host, non_blocking=True)
        current.wait_stream(copies)
        runner.pixels.copy_(buffers[number])
        free[number].record(current)
        return runner.classes().to("cpu", non_blocking=True)

    seconds, enqueue = steps(run, clock, *limits)
    return seconds, {"enqueue_ms": enqueue}


def main():
    parser = gpu.parser(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--configurations", **gpu.choices(CONFIGURATIONS))
    parser.add_argument("--precisions", **gpu.choices(PRECISIONS))
    parser.add_argument("--modes", **gpu.choices(MODES))
    args = parser.parse_args()
    begin = time.monotonic()
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU; say --device cpu to see that the script works")
    task = tasks.prepare(args.alexnet, args.model, args.folder)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    versions = {name: str(version) for name, version in versions.items() if version}
    device = f"cuda:0 ({torch.cuda.get_device_name(0)})" if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    machine = records.machine(f"pytorch {torch.__version__}", device, versions, torch.cuda.get_device_name(0) if on_gpu else None)
    notes = [
        "From uint8 pixels (N, H, W, 3) to the best class, the network in PyTorch's functional operators with the weights of "
        "seed:0; logits agree with alexnet's. cudnn.benchmark is on.",
        "Steps of compute and copied are timed by CUDA events, from one's end to the next one's; latency by the host's clock.",
        "Compute leaves classes on the device, where alexnet copies them back; copied moves pixels within the device once more, since "
        "a graph reads one address.",
    ]
    record = records.Record(args.output, machine, task.subject(torch.get_num_threads()), args.warmup, args.duration, args.iterations, notes)
    torch.backends.cudnn.benchmark = True
    clock = Clock(args.device)
    left_out, disagree = [], False
    cases = list(itertools.product(args.precisions, args.configurations, map(int, args.batch_sizes)))
    # Compiling takes most of the time, and so comes last where there is a budget.
    cases.sort(key=lambda case: case[1] == "compile")
    for precision, configuration, size in cases:
        name = f"{CONFIGURATIONS[configuration]}, {precision}, batch {size}"
        if not on_gpu and (configuration == "graph" or precision == "tf32"):
            left_out.append(f"{name} (needs a GPU)")
            continue
        if time.monotonic() - begin > args.budget:
            left_out.append(name)
            continue
        for allow in (torch.backends.cuda.matmul, torch.backends.cudnn):
            allow.allow_tf32 = precision == "tf32"
        torch.compiler.reset()
        network = Network(task).to(args.device).eval()
        network = network if configuration == "eager" else network.channels_last()
        network.cast(DTYPES.get(precision, torch.float32))
        host = torch.from_numpy(task.batch(size))
        host = host.pin_memory() if on_gpu else host
        try:
            with torch.inference_mode():
                pixels = host.to(args.device)
                runner = Runner(network, configuration, pixels)
                task.check(runner.logits(), precision)
                for mode in args.modes:
                    if mode == "copied" and not on_gpu:
                        continue
                    seconds, parts = measure(runner, mode, host, clock, args)
                    record.add(records.result("pytorch", CONFIGURATIONS[configuration], mode, precision, size, seconds, parts))
        except tasks.Disagreement as error:
            left_out.append(f"{name} ({error})")
            disagree = True
        except RuntimeError as error:  # memory that runs out, a compiler that is missing or fails
            left_out.append(f"{name} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})")
        finally:
            network = runner = None
            if on_gpu:
                torch.cuda.empty_cache()
    for name in left_out:
        record.note(f"left out: {name}")
    record.write()
    if disagree:
        raise SystemExit("some logits disagree, see the notes")


if __name__ == "__main__":
    main()
