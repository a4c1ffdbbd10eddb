"""What a record of `cpu.py` says: alexnet beside each of the others, and whether it is as good as it has to be."""

# Images per second over the best of the others', by batch size.
SPEED = {1: 1.15, 8: 1.5, 32: 1.5}
# Peak memory over onnxruntime's, at most.
MEMORY = 1.15
# Time to the first prediction over PyTorch's, at most.
START = 0.2
# Images per second of two threads over those of one.
SCALING = 1.9
# Batch size of the last two figures on memory and threads.
BATCH = 32
ONE_THREAD = "1 thread"


def name(result):
    return ", ".join(filter(None, (result["program"], result["configuration"])))


def of_size(record, size):
    """Results at a batch size by name, alexnet's on one thread apart."""
    results = {name(result): result for result in record["results"] if result["batch_size"] == size}
    return results, results.pop(f"alexnet, {ONE_THREAD}", None)


def beside(title, unit, values, ratio):
    """A line a program, the best first and alexnet on top, with `ratio` of alexnet's value and theirs."""
    own = values.pop("alexnet")
    yield f"{title:<58}{unit:>12}  alexnet/theirs"
    yield f"  {'alexnet':<56}{own:>12.1f}"
    for program, value in values.items():
        yield f"  {program:<56}{value:>12.1f}{ratio(own, value):>16.3f}"


def summary(record):
    """Lines of text, and requirements: what, the figure or None where it was not measured, the limit, whether it is met."""
    lines, requirements = [], []
    divided = lambda own, theirs: own / theirs

    def require(what, figure, limit, least):
        met = figure is not None and (figure >= limit if least else figure <= limit)
        requirements.append((what, figure, f"{'at least' if least else 'at most'} {limit}", met))

    for size in sorted({result["batch_size"] for result in record["results"]}):
        results, _ = of_size(record, size)
        speeds = {program: result["samples_per_sec"] for program, result in results.items()}
        speeds = dict(sorted(speeds.items(), key=lambda item: -item[1]))
        lines += beside(f"batch {size}", "images/s", dict(speeds), divided)
    for size, limit in SPEED.items():
        results, _ = of_size(record, size)
        own = results.pop("alexnet", None)
        best = max(results.values(), key=lambda result: result["samples_per_sec"], default=None)
        known = own is not None and best is not None
        what = f"speed at batch {size}, over {name(best) if known else 'the best of the others'}"
        require(what, own["samples_per_sec"] / best["samples_per_sec"] if known else None, limit, least=True)

    results, one_thread = of_size(record, BATCH)
    peaks = {program: result["peak_resident_bytes"] / 1e6 for program, result in results.items() if result.get("peak_resident_bytes")}
    peaks = dict(sorted(peaks.items(), key=lambda item: item[1]))
    if "alexnet" in peaks:
        lines += beside(f"peak memory, batch {BATCH}", "MB", dict(peaks), divided)
    known = {"alexnet", "onnxruntime"} <= peaks.keys()
    require("memory over onnxruntime's", peaks["alexnet"] / peaks["onnxruntime"] if known else None, MEMORY, least=False)

    start = record["cold_start"]
    if start:
        times = {peer["program"]: peer["first_prediction_ms"]["median"] for peer in start["peers"]}
        lines += beside("first prediction of a process", "ms", {"alexnet": start["first_prediction_ms"]["median"], **times}, divided)
    require("first prediction over pytorch's", start["peers"][0]["ratio"] if start else None, START, least=False)

    two = results.get("alexnet") if record["threads"] == 2 else None
    scaling = two["samples_per_sec"] / one_thread["samples_per_sec"] if one_thread and two else None
    require(f"two threads over one, batch {BATCH}", scaling, SCALING, least=True)
    return lines, requirements


def show(record):
    """Prints it; whether all requirements are met."""
    lines, requirements = summary(record)
    print("\n".join(lines))
    for what, figure, limit, met in requirements:
        shown = "not measured" if figure is None else f"{figure:.3f}"
        print(f"{'met' if met else 'NOT MET':<8}{what}: {shown}, {limit}")
    return all(met for *_, met in requirements)
