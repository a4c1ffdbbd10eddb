"""Programs that take turns on the CPU: runtimes, each in a process of its own, and alexnet."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import task as tasks

HERE = Path(__file__).resolve().parent


class Peer:
    """A worker process, stopped unless it is asked, and gone with the block that it is the context of."""

    def __init__(self, name, args):
        command = [sys.executable, HERE / "cpu_worker.py", name, args.model, args.folder, str(args.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.version = self.answer()["version"]
        os.kill(self.process.pid, signal.SIGSTOP)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, size, seconds):
        """Runs batches of `size` for so many seconds: seconds of each, and the most memory that the process has had in use."""
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(f"{size} {seconds}\n")
        self.process.stdin.flush()
        answer = self.answer()
        os.kill(self.process.pid, signal.SIGSTOP)
        batches = answer["batches"]
        times = [time / batches for time in answer["seconds"] for _ in range(batches)]
        return times, answer["peak_resident_bytes"]

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error:
            self.process.kill()  # stopped or not
        else:
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


class Own:
    """alexnet itself, a fresh process each turn."""

    def __init__(self, args, threads):
        self.args, self.threads = args, threads
        self.commit = None  # of the program, known once it has run

    def run(self, size, seconds):
        """As a peer's."""
        args = self.args
        weights = Path(args.folder) / args.model / "weights.safetensors"
        command = [args.alexnet, "bench", "--model", args.model, "--checkpoint", weights, "--device", "cpu", "-j", self.threads,
                   "-b", size, "--duration", seconds, "--json", "--step-times"]  # fmt: skip
        record = json.loads(tasks.run(command))
        self.commit, result = record["machine"]["commit"], record["results"][0]
        return [time / 1e3 for time in result["step_times_ms"]], result["peak_resident_bytes"]


def memory(args, size):
    """By name, the most memory that a fresh process of each program has in use which runs batches of `size` alone."""
    peaks = {"alexnet": Own(args, args.threads).run(size, 1.0)[1]}
    for name in args.runtimes:
        with Peer(name, args) as peer:
            peaks[name] = peer.run(size, 1.0)[1]
    return peaks
