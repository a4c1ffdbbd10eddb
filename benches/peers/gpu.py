"""What the scripts for a GPU share: their arguments, and latency on the host's clock."""

import argparse
import time

import task as tasks


def words(text):
    return text.split(",")


def parser(about):
    """Arguments that every script takes."""
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--alexnet", required=True, help="the program")
    parser.add_argument("-o", "--output", required=True, help="the record")
    parser.add_argument("--model", default="torchvision", choices=tasks.VARIANTS)
    parser.add_argument("-b", "--batch-sizes", type=words, default="1,8,32,64,128,256,512,1024".split(","))
    parser.add_argument("--duration", type=float, default=1.0, help="seconds a measurement")
    parser.add_argument("--iterations", type=int, default=10, help="steps a measurement at least")
    parser.add_argument("--warmup", type=float, default=0.2, help="seconds")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds in all")
    parser.add_argument("--folder", default="target/peers", help="where weights, pictures and logits lie")
    return parser


def choices(known):
    """A list of some of `known`, by default all, as arguments of `add_argument`."""

    def check(text):
        names = words(text)
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        return names

    return {"type": check, "default": list(known)}


def latency(run, duration, least, warm_up):
    """Seconds of one batch at a time: `run` goes from the host's pixels to classes on the host."""
    seconds, begin = [], None
    warm = time.perf_counter()
    while begin is None or len(seconds) < least or time.perf_counter() - begin < duration:
        started = time.perf_counter()
        run()
        now = time.perf_counter()
        if begin is not None:
            seconds.append(now - started)
        elif now - warm >= warm_up:
            begin = now
    return seconds
