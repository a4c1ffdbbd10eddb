"""The task's networks as ONNX, from the normalised input (N, 3, H, W) `x` to logits `y`."""

import onnx
from onnx import TensorProto, helper, numpy_helper

import task as tasks


def write(task, path):
    """Writes the network with its weights; the batch size is free."""
    nodes, weights, values = [], [], iter(range(1000))

    def add(operator, inputs, outputs=1, **attributes):
        names = [f"v{next(values)}" for _ in range(outputs)]
        nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def parameters(number):
        names = [f"filter{number}", f"bias{number}"]
        weights.extend(numpy_helper.from_array(array, name) for array, name in zip(task.weights[number], names))
        return names

    x, flat = "x", False
    for layer in tasks.layers(task.variant):
        if layer[0] == "conv":
            _, number, kernel, stride, padding, groups = layer
            x = add("Conv", [x, *parameters(number)], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, group=groups)
            x = add("Relu", [x])
        elif layer[0] == "lrn":
            _, k, towers = layer
            parts = add("Split", [x], towers, axis=1, num_outputs=towers) if towers > 1 else [x]
            parts = [add("LRN", [part], size=5, alpha=1e-4, beta=0.75, bias=k) for part in parts]
            x = add("Concat", parts, axis=1) if towers > 1 else parts[0]
        elif layer[0] == "pool":
            x = add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
        else:
            if not flat:
                x, flat = add("Flatten", [x], axis=1), True
            x = add("Gemm", [x, *parameters(layer[1])], transB=1)
            x = add("Relu", [x]) if layer[1] < 8 else x
    nodes[-1].output[0] = "y"
    size = tasks.input_size(task.variant)
    graph = helper.make_graph(
        nodes,
        task.variant,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", task.logits.shape[1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
