#!/usr/bin/env python3
"""CPU runtimes beside alexnet in one interleaved run, float32, on as many threads each.

    cpu.py --alexnet target/release/alexnet -o cpu.json

It installs the runtimes into target/peers/venv (about 5 GB with PyTorch's own libraries). Every runtime has a process of its own,
which is stopped while others run: some keep their threads spinning. In every round each has its turn, so that what changes with
time meets all of them. Logits agree with alexnet's first, or the run ends. Then come the memory of fresh processes, and the time to
a first prediction beside PyTorch's. A summary says how alexnet stands to each; with --gate the exit code says whether that is well.

The others get pixels that are normalised already, as the tensors that they like; alexnet begins with uint8 and ends with classes.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# By name, the program and how it runs.
RUNTIMES = {
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words = lambda text: text.split(",")
    numbers = lambda text: list(map(int, words(text)))
    parser.add_argument("--alexnet", required=True, help="the program")
    parser.add_argument("-o", "--output", required=True, help="the record")
    parser.add_argument("--model", default="torchvision")
    parser.add_argument("--runtimes", type=words, default=list(RUNTIMES))
    parser.add_argument("-b", "--batch-sizes", type=numbers, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=5, help="processes of which the first prediction is timed")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of a turn")
    parser.add_argument("--folder", default="target/peers", help="where the runtimes, weights, pictures and logits lie")
    parser.add_argument("--gate", action="store_true", help="exit code 1 where alexnet is not as good as it has to be")
    args = parser.parse_args()
    for name in args.runtimes:
        if name not in RUNTIMES:
            parser.error(f"'{name}' is none of {', '.join(RUNTIMES)}")
    if args.gate and set(args.runtimes) != set(RUNTIMES):
        parser.error("--gate needs all runtimes")
    if not Path(args.alexnet).is_file():
        parser.error(f"{args.alexnet} is not there: cargo build --release makes target/release/alexnet")
    install(Path(args.folder).resolve())
    if not compare(args) and args.gate:
        sys.exit(1)


def compare(args):
    """Measures, records and shows everything; whether alexnet is as good as it has to be."""
    import cpu_start
    import cpu_summary
    import cpu_turns
    import onnx_network
    import task as tasks

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    task = tasks.prepare(args.alexnet, args.model, args.folder)
    onnx_network.write(task, task.folder / "network.onnx")
    if "mnn" in args.runtimes:
        converter = Path(sys.prefix) / "bin/mnnconvert"
        tasks.run([converter, "-f", "ONNX", "--modelFile", task.folder / "network.onnx", "--MNNModel", task.folder / "network.mnn",
                   "--bizCode", "alexnet"])  # fmt: skip
    peaks = cpu_turns.memory(args, cpu_summary.BATCH) if cpu_summary.BATCH in args.batch_sizes else {}
    with contextlib.ExitStack() as ends:
        peers = [ends.enter_context(cpu_turns.Peer(name, args)) for name in args.runtimes]
        record = interleaved(args, task, peers, peaks)
    if args.model == "torchvision":
        record.cold_start(cpu_start.measure(args, task))
    return cpu_summary.show(record.fields)


def interleaved(args, task, peers, peaks):
    """The record of all programs' turns, with the most memory that each had in use."""
    import cpu_summary
    import cpu_turns
    import record as records

    versions = {RUNTIMES[peer.name][0]: peer.version for peer in peers}
    machine = records.machine("alexnet and CPU runtimes, interleaved", f"CPU, {args.threads} threads, float32", versions)
    notes = [
        f"Interleaved: {args.rounds} rounds, in each a turn of {args.duration} s for every program; the others are stopped "
        "meanwhile. samples_per_sec is of all turns together.",
        "Runtimes get normalised float32 tensors; alexnet begins with uint8 pixels and ends with classes.",
        f"Peak memory is of fresh processes that run batches of {cpu_summary.BATCH} alone.",
    ]
    record = records.Record(args.output, machine, task.subject(args.threads), 0.5, args.duration * args.rounds, 3 * args.rounds, notes)
    one_thread = ("alexnet", cpu_summary.ONE_THREAD)
    for size in args.batch_sizes:
        for peer in peers:
            peer.run(size, 0.1)  # agrees and is warm, or ends the run
        own = cpu_turns.Own(args, args.threads)
        turns = {("alexnet", None): own}
        if size == cpu_summary.BATCH and args.threads > 1:
            turns[one_thread] = cpu_turns.Own(args, 1)
        turns.update({RUNTIMES[peer.name]: peer for peer in peers})
        seconds = {program: [] for program in turns}
        for _ in range(args.rounds):
            for program, turn in turns.items():
                seconds[program] += turn.run(size, args.duration)[0]
        if record.fields["machine"]["commit"] not in (None, own.commit):
            raise SystemExit(f"{args.alexnet} was built anew while it was measured: begin again")
        record.fields["machine"]["commit"] = own.commit
        fresh = {RUNTIMES.get(name, (name, None)): peak for name, peak in peaks.items()}
        for program, times in seconds.items():
            result = records.result(*program, "compute", "float32", size, times)
            result["peak_resident_bytes"] = fresh.get(program) if size == cpu_summary.BATCH else None
            record.add(result)
    return record


if __name__ == "__main__":
    main()
