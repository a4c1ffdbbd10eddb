"""Seconds from the start of a process to its first prediction: alexnet's, and PyTorch's on the same picture and weights."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import record as records

HERE = Path(__file__).resolve().parent
HOW = (
    "from a process's start to its first result on stdout, one JPEG of 500x375, a .safetensors file in the page cache; pytorch: "
    "torchvision's alexnet with these weights loaded into it, and its transforms; processes in turns, after one of each"
)


def picture(path):
    """Waves of a few lengths, as a JPEG."""
    y, x, c = np.ogrid[:375, :500, :3]
    waves = np.sin(x / (9 + 4 * c)) + np.sin((x + 2 * y) / 37) + np.cos(y / (23 - 5 * c))
    Image.fromarray((127.5 + 42 * waves).astype(np.uint8)).save(path, quality=90)


def first_line(command, threads):
    """A command's first line, and seconds until it was there."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    _, said = process.communicate()
    if process.returncode or not line:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{said}")
    return line, seconds


def measure(args, task):
    """What a record says of it, `args.starts` processes of each."""
    path, weights = task.folder / "start.jpg", task.folder / "weights.safetensors"
    picture(path)
    own = [args.alexnet, "predict", path, "--model", args.model, "--checkpoint", weights, "--device", "cpu", "-j", args.threads,
           "--output-type", "logit", "--results-format", "jsonl"]  # fmt: skip
    torch = [sys.executable, HERE / "torch_start.py", weights, path, args.threads]
    times = [], []
    for count in range(args.starts + 1):
        line, own_seconds = first_line(own, args.threads)
        found = json.loads(line)["predictions"][0]["index"]
        line, torch_seconds = first_line(torch, args.threads)
        if int(line) != found:
            raise SystemExit(f"{path}: alexnet finds class {found}, torchvision {int(line)}")
        if count > 0:
            times[0].append(1e3 * own_seconds)
            times[1].append(1e3 * torch_seconds)
    ours, theirs = map(records.spread, times)
    peer = {"program": "pytorch", "first_prediction_ms": theirs, "ratio": ours["median"] / theirs["median"]}
    return {"first_prediction_ms": ours, "processes": args.starts, "how": HOW, "peers": [peer]}
