#!/usr/bin/env python3
"""CPU runtimes beside alexnet in one interleaved run, float32, on as many threads each.

    cpu.py --alexnet target/release/alexnet -o cpu.json

It installs the runtimes into target/peers/venv (about 5 GB with PyTorch's own libraries). Every runtime has a process of its own,
which is stopped while others run: some keep their threads spinning. In every round each has its turn, so that what changes with
time meets all of them. Logits agree with alexnet's first, or the run ends.

The others get pixels that are normalised already, as the tensors that they like; alexnet begins with uint8 and ends with classes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIMES = ("torch", "torch-channels_last", "torch-compile", "onnxruntime", "openvino", "openvino-throughput", "mnn")
CONFIGURATIONS = {
    "torch": ("pytorch", "eager, NCHW"),
    "torch-channels_last": ("pytorch", "eager, channels_last"),
    "torch-compile": ("pytorch", "torch.compile with freezing, channels_last"),
    "onnxruntime": ("onnxruntime", None),
    "openvino": ("openvino", "latency hint"),
    "openvino-throughput": ("openvino", "throughput hint"),
    "mnn": ("mnn", "precision high"),
}


def install(folder):
    """Runs this script again in a virtual environment that has the runtimes."""
    home = folder / "venv"
    python, wanted = home / "bin/python", (HERE / "requirements-cpu.txt").read_text()
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements-cpu.txt"], check=True)
        stamp.write_text(wanted)
    if Path(sys.prefix).resolve() != home.resolve():
        os.execv(python, [str(python), *sys.argv])


class Peer:
    """A worker process, stopped unless it is asked."""

    def __init__(self, name, args):
        command = [sys.executable, HERE / "cpu_worker.py", name, args.alexnet, args.model, args.folder, str(args.threads)]
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
        """Seconds of each step, and batches in one."""
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(f"{size} {seconds}\n")
        self.process.stdin.flush()
        answer = self.answer()
        os.kill(self.process.pid, signal.SIGSTOP)
        return answer["seconds"], answer["batches"]

    def end(self):
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def own(args, task, tasks, size, seconds):
    """A slice of alexnet itself: the first result of its record."""
    command = [args.alexnet, "bench", "--model", args.model, "--checkpoint", task.folder / "weights.safetensors", "--device", "cpu",
               "-j", args.threads, "-b", size, "--duration", seconds, "--json"]  # fmt: skip
    return json.loads(tasks.run(command))["results"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words = lambda text: text.split(",")
    parser.add_argument("--alexnet", required=True, help="the program")
    parser.add_argument("-o", "--output", required=True, help="the record")
    parser.add_argument("--model", default="torchvision")
    parser.add_argument("--runtimes", type=words, default=list(RUNTIMES))
    parser.add_argument("-b", "--batch-sizes", type=words, default=["1", "8", "32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of a turn")
    parser.add_argument("--folder", default="target/peers", help="where the runtimes, weights, pictures and logits lie")
    args = parser.parse_args()
    for name in args.runtimes:
        if name not in RUNTIMES:
            parser.error(f"'{name}' is none of {', '.join(RUNTIMES)}")
    if not Path(args.alexnet).is_file():
        parser.error(f"{args.alexnet} is not there: cargo build --release makes target/release/alexnet")
    install(Path(args.folder).resolve())
    compare(args)


def compare(args):
    import onnx_network
    import record as records
    import task as tasks

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    task = tasks.prepare(args.alexnet, args.model, args.folder)
    onnx_network.write(task, task.folder / "network.onnx")
    if "mnn" in args.runtimes:
        converter = Path(sys.prefix) / "bin/mnnconvert"
        tasks.run([converter, "-f", "ONNX", "--modelFile", task.folder / "network.onnx", "--MNNModel", task.folder / "network.mnn",
                   "--bizCode", "alexnet"])  # fmt: skip
    peers = [Peer(name, args) for name in args.runtimes]
    versions = {CONFIGURATIONS[peer.name][0]: peer.version for peer in peers}
    machine = records.machine("alexnet and CPU runtimes, interleaved", f"CPU, {args.threads} threads, float32", versions)
    notes = [
        f"Interleaved: {args.rounds} rounds, in each a turn of {args.duration} s for every program; the others are stopped "
        "meanwhile. samples_per_sec is of all turns together.",
        "Runtimes get normalised float32 tensors; alexnet begins with uint8 pixels and ends with classes.",
        "Of alexnet each turn's mean is known, not each step: its percentiles and deviation are of those.",
    ]
    record = records.Record(args.output, machine, task.subject(args.threads), 0.5, args.duration * args.rounds, 3 * args.rounds, notes)
    for size in map(int, args.batch_sizes):
        for peer in peers:
            peer.run(size, 0.1)  # agrees and is warm, or ends the run
        seconds = {peer.name: [] for peer in peers}
        batches, ours = {}, []
        for _ in range(args.rounds):
            result = own(args, task, tasks, size, args.duration)
            ours += [result["step_time_ms"] / 1e3] * result["steps"]
            for peer in peers:
                times, batches[peer.name] = peer.run(size, args.duration)
                seconds[peer.name] += times
        record.add(records.result("alexnet", None, "compute", "float32", size, ours))
        for name, times in seconds.items():
            program, configuration = CONFIGURATIONS[name]
            times = [time / batches[name] for time in times for _ in range(batches[name])]
            record.add(records.result(program, configuration, "compute", "float32", size, times))
    for peer in peers:
        peer.end()


if __name__ == "__main__":
    main()
