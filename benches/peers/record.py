"""Figures over steps and the record that `alexnet bench --peers` and `alexnet report` read (schema alexnet.bench.1)."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

PERCENTILES = (90, 95, 99)
SCHEMA = "alexnet.bench.1"


def spread(values):
    values = np.asarray(values, np.float64)
    mean = values.mean()
    return {
        "min": values.min(),
        "mean": mean,
        "median": np.median(values),
        "max": values.max(),
        "cv": values.std() / mean,
        **{f"p{percent}": np.percentile(values, percent) for percent in PERCENTILES},
    }


def windows(seconds, images):
    """Speeds of the last three windows of a measurement, which is divided into three to ten of equal length, as many as have five
    steps each, and whether each is within 10 % of their mean. A step that two share counts in each by its part of the time."""
    if len(seconds) < 3:
        return None
    count = min(max(len(seconds) // 5, 3), 10)
    ends = np.concatenate([[0.0], np.cumsum(seconds)])
    edges = np.linspace(0, ends[-1], count + 1)
    done = np.interp(edges, ends, images * np.arange(len(ends)))
    speeds = (np.diff(done) / (ends[-1] / count))[-3:]
    mean = speeds.mean()
    return {"samples_per_sec": speeds.tolist(), "stable": bool((abs(speeds - mean) <= 0.1 * mean).all())}


def result(program, configuration, mode, precision, batch_size, seconds, parts=None):
    """A measurement of steps that took `seconds` each. `parts` has lists of milliseconds, by name."""
    parts = parts or {}
    steps = len(seconds)
    return {
        "program": program,
        "configuration": configuration,
        "mode": mode,
        "precision": precision,
        "batch_size": batch_size,
        "samples_per_sec": batch_size * steps / float(np.sum(seconds)),
        "step_time_ms": float(np.mean(seconds)) * 1e3,
        "latency_ms": spread(np.asarray(seconds) * 1e3),
        **{name: spread(parts[name]) if name in parts else None for name in ("enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms")},
        "windows": windows(seconds, batch_size),
        "steps": steps,
        "images": batch_size * steps,
        "failed": 0,
    }


def command(*words):
    """A program's output, None where it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def gpu(ordinal=0):
    """Name, driver and clocks of a GPU by nvidia-smi; Nones without it."""
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    line = command("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", f"--id={ordinal}")
    if not line:
        return None, None, None
    name, driver, sm, sm_max, memory, power = [part.strip() for part in line.split(",")]
    try:
        clocks = {"sm_mhz": int(sm), "sm_max_mhz": int(sm_max), "memory_mhz": int(memory), "power_limit_w": float(power)}
    except ValueError:  # some cards do not tell
        clocks = None
    return name, driver, clocks


def machine(program, device, versions, gpu_name=None):
    """What a record is measured on: the first GPU where it has a name, else the CPU."""
    cpu = None
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else None
    name, driver, clocks = gpu() if gpu_name else (None, None, None)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "program": program,
        "commit": None,
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": device,
        "gpus": [name or gpu_name] if gpu_name else [],
        "driver": driver,
        "clocks": clocks,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions},
    }


class Record:
    """Results as they come in, written after each: a run that is stopped keeps what it has."""

    def __init__(self, path, machine, subject, warm_up, duration, iterations, notes):
        self.path = Path(path)
        self.fields = {
            "schema": SCHEMA,
            "machine": machine,
            **subject,
            "inputs": None,
            "warm_up_s": warm_up,
            "duration_s": duration,
            "iterations": iterations,
            "results": [],
            "cold_start": None,
            "notes": list(notes),
        }

    def add(self, result):
        self.fields["results"].append(result)
        configuration = f", {result['configuration']}" if result["configuration"] else ""
        print(
            f"{result['program']}{configuration}, {result['precision']}, {result['mode']}, batch {result['batch_size']}: "
            f"{result['samples_per_sec']:.1f} images/s",
            file=sys.stderr,
            flush=True,
        )
        self.write()

    def cold_start(self, found):
        self.fields["cold_start"] = found
        self.write()

    def note(self, text):
        print(text, file=sys.stderr, flush=True)
        self.fields["notes"].append(text)
        self.write()

    def write(self):
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(self.fields, indent=2, allow_nan=False) + "\n")
        partial.replace(self.path)
