"""The task's networks in PyTorch, from uint8 pixels (N, H, W, 3) to logits."""

import torch
from torch import nn
from torch.nn import functional

import task as tasks


class Network(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.layers = tasks.layers(task.variant)
        self.bgr, mean, deviation = tasks.normalisation(task.variant)
        self.register_buffer("mean", torch.from_numpy(mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.from_numpy(deviation).view(1, 3, 1, 1))
        # Copies: the task's arrays are views of a file's bytes, which must not be written.
        self.filters = nn.ParameterDict({str(number): torch.tensor(pair[0]) for number, pair in task.weights.items()})
        self.biases = nn.ParameterDict({str(number): torch.tensor(pair[1]) for number, pair in task.weights.items()})
        self.format = torch.contiguous_format

    def channels_last(self):
        self.format = torch.channels_last
        return self.to(memory_format=torch.channels_last)

    def cast(self, dtype):
        """Filters and biases in `dtype`; pixels are normalised in float32 all the same."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2)
        if self.bgr:
            x = x.flip(1)
        x = ((x.float() - self.mean) / self.deviation).to(self.filters["1"].dtype)
        return self.logits(x.contiguous(memory_format=self.format))

    def logits(self, x):
        """From the normalised input (N, 3, H, W)."""
        for layer in self.layers:
            if layer[0] == "conv":
                _, number, _, stride, padding, groups = layer
                filter, bias = self.filters[str(number)], self.biases[str(number)]
                x = functional.relu(functional.conv2d(x, filter, bias, stride, padding, groups=groups))
            elif layer[0] == "lrn":
                _, k, towers = layer
                parts = [functional.local_response_norm(part, 5, 1e-4, 0.75, k) for part in x.chunk(towers, 1)]
                x = torch.cat(parts, 1) if towers > 1 else parts[0]
            elif layer[0] == "pool":
                x = functional.max_pool2d(x, 3, 2)
            else:
                number = layer[1]
                x = functional.linear(x.flatten(1), self.filters[str(number)], self.biases[str(number)])
                x = functional.relu(x) if number < 8 else x
        return x
