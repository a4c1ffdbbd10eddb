"""One runtime in a process of its own, told by lines on stdin what to do; answers are lines of JSON on stdout.

    BATCH SECONDS    run batches for about that long: {"seconds": [of each step], "batches": in a step,
                     "peak_resident_bytes": of this process since its start}
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import task as tasks


def torch_runtime(task, threads, kind):
    import torch

    from torch_network import Network

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    network = Network(task).eval()
    if kind != "eager":
        network = network.channels_last()
    call = network.logits
    if kind == "compile":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        call = torch.compile(call, dynamic=False)

    def prepare(x):
        tensor = torch.from_numpy(x)
        tensor = tensor if kind == "eager" else tensor.to(memory_format=torch.channels_last)

        def step():
            # Freezing weights needs tensors that inference_mode does not give.
            with torch.no_grad():
                return call(tensor).numpy()

        return step

    return prepare, torch.__version__


def onnxruntime_runtime(task, threads, _):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(task.folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    return lambda x: lambda: session.run(None, {"x": x})[0], onnxruntime.__version__


def openvino_runtime(task, threads, kind):
    import openvino
    from openvino import properties
    from openvino.properties import hint

    mode = {"latency": hint.PerformanceMode.LATENCY, "throughput": hint.PerformanceMode.THROUGHPUT}[kind]
    settings = {hint.performance_mode: mode, hint.inference_precision: openvino.Type.f32, properties.inference_num_threads: threads}
    core = openvino.Core()

    def prepare(x):
        model = core.read_model(task.folder / "network.onnx")
        model.reshape(list(x.shape))
        compiled = core.compile_model(model, "CPU", settings)
        tensor = openvino.Tensor(x, shared_memory=True)
        if kind == "latency":
            request = compiled.create_infer_request()

            def step():
                request.set_input_tensor(tensor)
                request.infer()
                return request.get_output_tensor().data

            return step
        # As many requests as it finds best: a step is a batch of each.
        queue = openvino.AsyncInferQueue(compiled)

        def step():
            for _ in range(len(queue)):
                queue.start_async({0: tensor})
            queue.wait_all()
            return queue[0].get_output_tensor().data

        step.batches = len(queue)
        return step

    return prepare, openvino.__version__.split("-")[0]


def mnn_runtime(task, threads, _):
    import MNN
    import MNN.expr
    import MNN.nn

    runtime = MNN.nn.create_runtime_manager(({"precision": "high", "backend": "CPU", "numThread": threads},))
    network = MNN.nn.load_module_from_file(str(task.folder / "network.mnn"), ["x"], ["y"], runtime_manager=runtime)

    def prepare(x):
        tensor = MNN.expr.const(x, list(x.shape), MNN.expr.NCHW, MNN.expr.float)
        return lambda: np.array(network.onForward([tensor])[0].read())

    return prepare, MNN.version() if hasattr(MNN, "version") else "unknown"


RUNTIMES = {
    "torch": (torch_runtime, "eager"),
    "torch-channels_last": (torch_runtime, "channels_last"),
    "torch-compile": (torch_runtime, "compile"),
    "onnxruntime": (onnxruntime_runtime, None),
    "openvino": (openvino_runtime, "latency"),
    "openvino-throughput": (openvino_runtime, "throughput"),
    "mnn": (mnn_runtime, None),
}


def peak_resident_bytes():
    """None where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), None)


def main(name, variant, folder, threads):
    # Runtimes print to stdout what they like: answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Others read weights from files of their own, and their memory is measured.
    task = tasks.read(variant, folder, with_weights=name.startswith("torch"))
    runtime, kind = RUNTIMES[name]
    prepare, version = runtime(task, threads, kind)
    task.weights.clear()  # the runtime has its own
    answer = lambda value: print(json.dumps(value), file=answers, flush=True)
    answer({"version": version})
    prepared = {}
    for line in sys.stdin:
        size, seconds = int(line.split()[0]), float(line.split()[1])
        if size not in prepared:
            step = prepare(task.normalised(size))
            try:
                task.check(step(), "float32")
            except tasks.Disagreement as found:
                raise SystemExit(f"{name}: {found}") from None
            warm = time.perf_counter()
            while time.perf_counter() - warm < 0.5:
                step()
            prepared[size] = step
        step = prepared[size]
        times, begin = [], time.perf_counter()
        last = begin
        while len(times) < 3 or last - begin < seconds:
            step()
            now = time.perf_counter()
            times.append(now - last)
            last = now
        answer({"seconds": times, "batches": getattr(step, "batches", 1), "peak_resident_bytes": peak_resident_bytes()})


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
