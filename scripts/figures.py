#!/usr/bin/env python3
"""Writes the figures in README.md and docs/performance.md from the newest record of every card in benches/record.

    scripts/figures.py            write
    scripts/figures.py --check    fail where the documents say otherwise

No figure of speed stands in these documents that is not between the marks of a generated part.
"""

import json
import sys

from generated import ROOT, put

MODES = {
    "latency": "one batch at a time",
    "compute": "batch after batch",
    "copied": "with copies",
    "decode": "decoding alone",
    "end_to_end": "from files",
}
NO_GPU = (
    "No figure of a GPU is on record: the kernels have not yet run on hardware. What can be said without one is modelled, and "
    "marked so."
)


def records():
    """By card, the newest run's records, GPUs first."""
    newest, begun = {}, lambda run: min(record["machine"]["date"] for record in run)
    for file in sorted((ROOT / "benches/record").glob("*/*.json")):
        run = json.loads(file.read_text())
        # Of one day's commits the name does not tell which is the last.
        if file.parent.name not in newest or begun(run) > begun(newest[file.parent.name][1]):
            newest[file.parent.name] = (file, run)
    return sorted(newest.items(), key=lambda item: (not item[1][1][0]["machine"]["gpus"], item[0]))


def is_gpu(run):
    return bool(run[0]["machine"]["gpus"])


def of(run, kind):
    return [record for record in run if record["schema"] == f"alexnet.{kind}.1"]


def heading(file, run):
    # Other programs' records name no commit.
    machine = next((record["machine"] for record in run if record["machine"]["commit"]), run[0]["machine"])
    name = machine["gpus"][0] if machine["gpus"] else machine["cpu"]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    cores = "" if machine["gpus"] else f", {machine['cores']} cores"
    record = file.relative_to(ROOT)
    return f"{name}{cores}{driver}, {machine['date'][:10]}, commit {machine['commit']} ([record](REPOSITORY{record}))"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value, digits=3):
    """With thousands separated, to three digits or more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def throughput(run):
    """Images per second of every program, by precision and batch size, with the ratio to the best of the others. A record of
    several programs, which took turns, has tables of its own; those of one program each stand side by side."""
    groups, alone = [], []
    for record in of(run, "bench"):
        several = len({result["program"] for result in record["results"]}) > 1
        (groups if several else alone).append([record] if several else record)
    return [part for group in groups for part in speeds(group, ", programs in turns")] + speeds(alone, "")


def speeds(records, how):
    parts = []
    results = {}
    for record in records:
        for result in record["results"]:
            key = (record["model"], result["precision"], result["mode"])
            name = ", ".join(filter(None, (result["program"], result["configuration"])))
            sizes = results.setdefault(key, {}).setdefault(name, {})
            if result["batch_size"] in sizes:
                sys.exit(f"two results of {name}, {', '.join(key)}, batch {result['batch_size']} in one run's records: no table tells them apart")
            sizes[result["batch_size"]] = result["samples_per_sec"]
    for (model, precision, mode), programs in results.items():
        sizes = sorted({size for speeds in programs.values() for size in speeds})
        rows = [
            [name, *(number(speeds[size]) if size in speeds else "" for size in sizes)]
            for name, speeds in sorted(programs.items(), key=lambda item: (item[0] != "alexnet", item[0]))
        ]
        strangers = [speeds for name, speeds in programs.items() if not name.startswith("alexnet")]
        others = {size: [speeds[size] for speeds in strangers if size in speeds] for size in sizes}
        if "alexnet" in programs and any(others.values()):
            own = programs["alexnet"]
            ratios = [f"{own[size] / max(others[size]):.2f}" if size in own and others[size] else "" for size in sizes]
            rows.append(["alexnet over the best other", *ratios])
        parts.append(f"{model}, {precision}, {MODES[mode]}{how}, images/s by batch size:\n\n" + table(["", *map(str, sizes)], rows))
    return parts


def beside_others(run):
    """The tables of throughput in which other programs stand, batch after batch."""
    return [part for part in throughput(run) if "over the best other" in part and MODES["compute"] in part]


def layouts(run):
    parts = []
    for record in of(run, "compare"):
        rows = [
            [
                result["layout"],
                str(result["batch_size"]),
                number(result["images_per_second"]["median"]),
                f"{100 * result['images_per_second']['cv']:.1f} %",
                number(result["latency_ms"]["median"]),
                speed_up(result["speed_up"]),
            ]
            for result in record["results"]
        ]
        head = ["layout", "batch", "images/s", "+-", "latency ms", "speed-up (95 % interval)"]
        parts.append(f"{record['model']}, {record['precision']}, layouts of one network:\n\n" + table(head, rows))
    return parts


def speed_up(found):
    if not found:
        return "baseline"
    shown = "" if found["difference_shown"] else ", no difference shown"
    return f"{found['ratio']:.2f}x ({found['low_95']:.2f} to {found['high_95']:.2f}){shown}"


def steps(run):
    parts = []
    for record in of(run, "profile"):
        for track in record["tracks"]:
            rows = [
                [
                    step["name"],
                    f"`{step['kernel']}`" if step["kernel"] else "",
                    number(1e3 * step["time_ms"]["median"]),
                    f"{step['percentage']:.1f}",
                    number(step["flops_per_sec"] / 1e9),
                    number(step["bytes_per_sec"] / 1e9),
                    f"{step['roofline_percentage']:.0f}",
                ]
                for step in track["steps"]
            ]
            head = ["step", "run by", "us", "share %", "GFLOP/s", "GB/s", "roofline %"]
            title = f"{record['model']}, {record['precision']}, batch {record['batch_size']}, {track['place']}:\n\n"
            parts.append(title + table(head, rows))
    return parts


def kernels(run):
    """Single kernels beside what other libraries take for the same layer."""
    parts = []
    for record in of(run, "kernels"):
        sizes = {}
        for case in record["cases"]:
            sizes.setdefault((case["precision"], case["batch_size"]), []).append(case)
        for (precision, size), cases in sizes.items():
            rows = [
                [
                    case["variant"],
                    case["layer"],
                    f"`{case['kernel']}`",
                    number(case["time_us"]["median"]),
                    number(case["flops_per_sec"] / 1e12) if case["flops"] else "",
                    number(case["bytes_per_sec"] / 1e9),
                    f"{case['roofline_percentage']:.0f}",
                    ", ".join(f"{peer['library']} {peer['ratio']:.2f}" for peer in case["peers"]),
                ]
                for case in cases
            ]
            head = ["network", "layer", "run by", "us", "TFLOP/s", "GB/s", "roofline %", "others' time over ours"]
            parts.append(f"Kernels, {precision}, batch {size}, L2 cold:\n\n" + table(head, rows))
    return parts


def document(kinds, root, reminds=True):
    """The generated text: every card's newest run, `kinds` of tables. It `reminds` of a GPU's figures that are missing."""
    found = records()
    parts = [NO_GPU] if reminds and not any(is_gpu(run) for _, (_, run) in found) else []
    for _, (file, run) in found:
        tables = [part for kind in kinds for part in kind(run)]
        if tables:
            parts.append("**" + heading(file, run).replace("REPOSITORY", root) + "**")
            parts += tables
    return "\n\n".join(parts)


PARTS = [
    ("README.md", "figures", lambda: document([beside_others], "")),
    ("README.md", "layouts", lambda: document([layouts], "", reminds=False)),
    ("docs/performance.md", "measured", lambda: document([throughput, layouts, steps, kernels], "../")),
]


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    for document, part, generate in PARTS:
        put(document, part, generate(), bool(sys.argv[1:]), "scripts/figures.py")


if __name__ == "__main__":
    main()
