#!/usr/bin/env python3
"""Keeps measurements: puts the records in FILE... together as benches/record/CARD/DATE-COMMIT.json, with a table of the results
beside it as CSV.

    scripts/record.py out/bench.json out/profile.json ...

A file holds a record or a list of them, as --json and the scripts in benches/peers write them. All are of one machine and its
program of one commit. What ran on an emulated device, or was built from changed sources, is no measurement and is refused.
"""

import csv
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benches/record"
COLUMNS = ("kind", "model", "program", "configuration", "what", "precision", "batch_size", "figure", "unit", "value")


def card(machine):
    """A folder's name for the GPU, or the CPU where there is none: `nvidia-h200`."""
    name = machine["gpus"][0] if machine["gpus"] else machine["cpu"] or "unknown-cpu"
    name = re.sub(r"\((R|TM)\)", "", name)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read(files):
    records = []
    for file in files:
        try:
            content = json.loads(pathlib.Path(file).read_text())
        except (OSError, ValueError) as error:
            sys.exit(f"{file}: {error}")
        for record in content if isinstance(content, list) else [content]:
            if not isinstance(record, dict) or not str(record.get("schema", "")).startswith("alexnet."):
                sys.exit(f"{file}: no record of a measurement; give files that --json or benches/peers wrote")
            if "emulated" in record["machine"]["device"].lower():
                sys.exit(f"{file}: of an emulated device, which measures nothing")
            if (record["machine"]["commit"] or "").endswith("-dirty"):
                sys.exit(f"{file}: of sources with changes; commit them, build and measure again")
            records.append(record)
    cards = {card(record["machine"]) for record in records}
    if len(cards) != 1:
        sys.exit(f"records of several machines: {', '.join(sorted(cards))}")
    return records, cards.pop()


def rows(record):
    """A record's results, a figure a row."""
    kind = record["schema"].split(".")[1]
    model = record.get("model", "")
    if kind == "bench":
        for result in record["results"]:
            key = (kind, model, result["program"], result["configuration"] or "", result["mode"], result["precision"], result["batch_size"])
            yield *key, "throughput", "images/s", result["samples_per_sec"]
            yield *key, "latency median", "ms", result["latency_ms"]["median"]
            yield *key, "latency p99", "ms", result["latency_ms"].get("p99", "")
            if result.get("sequential_share"):
                yield *key, "of 1 / (1/decode + 1/compute)", "ratio", result["sequential_share"]
            if result.get("peak_resident_bytes"):
                yield *key, "peak memory", "bytes", result["peak_resident_bytes"]
        if start := record["cold_start"]:
            first = record["results"][0]
            key = ("", "cold start", first["precision"], 1)
            yield kind, model, first["program"], *key, "median", "ms", start["first_prediction_ms"]["median"]
            for peer in start.get("peers", []):
                yield kind, model, peer["program"], *key, "median", "ms", peer["first_prediction_ms"]["median"]
    elif kind == "profile":
        for track in record["tracks"]:
            for step in track["steps"]:
                key = (kind, model, "alexnet", track["place"], step["name"], record["precision"], record["batch_size"])
                yield *key, "median", "ms", step["time_ms"]["median"]
                yield *key, "roofline", "%", step["roofline_percentage"]
    elif kind == "compare":
        for result in record["results"]:
            key = (kind, model, "alexnet", "", result["layout"], record["precision"], result["batch_size"])
            yield *key, "throughput", "images/s", result["images_per_second"]["median"]
            yield *key, "latency median", "ms", result["latency_ms"]["median"]
            if result["speed_up"]:
                yield *key, "speed-up", "ratio", result["speed_up"]["ratio"]
    elif kind == "kernels":
        for case in record["cases"]:
            key = (kind, case["variant"], "alexnet", case["kernel"], case["layer"], case["precision"], case["batch_size"])
            yield *key, "median", "us", case["time_us"]["median"]
            yield *key, "roofline", "%", case["roofline_percentage"]
            for peer in case["peers"]:
                yield *key[:2], peer["library"], peer["how"], *key[4:], "median", "us", peer["time_us"]["median"]


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    records, folder = read(sys.argv[1:])
    commits = {record["machine"]["commit"] for record in records} - {None}
    if len(commits) != 1:
        sys.exit(f"records of {len(commits)} commits: {', '.join(sorted(commits))}; give those of one")
    date = min(record["machine"]["date"] for record in records)[:10]
    (RECORDS / folder).mkdir(parents=True, exist_ok=True)
    file = RECORDS / folder / f"{date}-{commits.pop()}.json"
    file.write_text(json.dumps(records, indent=1) + "\n")
    with file.with_suffix(".csv").open("w", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            writer.writerows(rows(record))
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
