"""What every peer computes: the same network with the same weights on the same pictures, and whether it did.

The weights are `alexnet convert seed:0`'s, the pictures follow a rule of seed and index, and the logits to agree with are
`alexnet predict`'s own. Everything lies in a folder, made anew for every run.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PICTURES = 32
POOL = ("pool",)


def conv(number, kernel, stride, padding, groups=1):
    return ("conv", number, kernel, stride, padding, groups)


def lrn(k, towers):
    return ("lrn", k, towers)


def layers(variant):
    """The network in order. Convolutions and all but the last fully connected layer end in a ReLU. Pools are 3x3, stride 2;
    LRN takes 5 channels with alpha 1e-4, divided by 5, and beta 0.75, within each of `towers`."""
    padding = 2 if variant in ("torchvision", "half") else 0
    groups = 2 if variant in ("paper", "caffe", "caffenet") else 1
    between = {
        "paper": (lrn(2.0, 2), POOL),
        "caffe": (lrn(1.0, 1), POOL),
        "caffenet": (POOL, lrn(1.0, 1)),
    }.get(variant, (POOL,))
    last = 5 if variant == "single-tower" else 3
    return [
        conv(1, 11, 4, padding),
        *between,
        conv(2, 5, 1, 2, groups),
        *between,
        conv(3, 3, 1, 1),
        conv(4, 3, 1, 1, groups),
        conv(5, last, 1, last // 2, groups),
        POOL,
        *(("linear", number) for number in (6, 7, 8)),
    ]


VARIANTS = ("torchvision", "half", "single-tower", "paper", "caffe", "caffenet")
SCALED = ("torchvision", "half", "single-tower")


def input_size(variant):
    return 224 if variant in ("torchvision", "half") else 227


def normalisation(variant):
    """Whether channels are BGR, and mean and deviation of each in levels of 0 to 255, in the network's order."""
    if variant in SCALED:
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        return False, (255 * mean).astype(np.float32), (255 * deviation).astype(np.float32)
    one = np.ones(3, np.float32)
    if variant == "paper":
        return False, np.array([123.68, 116.779, 103.939], np.float32), one
    return True, np.array([104.00698793, 116.66876762, 122.67891434], np.float32), one


class Disagreement(Exception):
    """Logits of another network: what they took is not worth measuring."""


@dataclass
class Task:
    variant: str
    folder: Path
    # By layer number, (filter KCRS or (out, in), bias).
    weights: dict
    # uint8 (N, H, W, 3), RGB.
    pictures: np.ndarray
    # float32 (N, classes).
    logits: np.ndarray

    def batch(self, size):
        """`size` pictures, the first ones repeated."""
        return np.ascontiguousarray(np.resize(self.pictures, (size, *self.pictures.shape[1:])))

    def normalised(self, size):
        """The network's input for `size` pictures: float32 (N, 3, H, W) in its channel order."""
        bgr, mean, deviation = normalisation(self.variant)
        pixels = self.batch(size)[..., ::-1] if bgr else self.batch(size)
        return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / deviation).transpose(0, 3, 1, 2))

    def check(self, logits, precision):
        """Refuses logits that are not those of the same network. Of float32 the largest difference counts, against the
        largest logit; of others the root of the mean square, against the logits' own."""
        logits = np.asarray(logits, np.float64)
        expected = np.resize(self.logits, logits.shape).astype(np.float64)
        if precision == "float32":
            error, limit = abs(logits - expected).max() / abs(expected).max(), 1e-4
        else:
            rms = np.sqrt((expected**2).mean())
            error = np.sqrt(((logits - expected) ** 2).mean()) / rms
            limit = 0.05 if precision == "bfloat16" else 0.01
        if not error <= limit:
            raise Disagreement(f"logits in {precision} are {error:.2e} off, at most {limit:.0e} is the same network")
        return error

    def subject(self, threads):
        """The fields of a record that tell what was run."""
        weights = sum(filter.size + bias.size for filter, bias in self.weights.values())
        size, macs, values = input_size(self.variant), 0, 0
        for layer in layers(self.variant):
            if layer[0] == "conv":
                _, number, kernel, stride, padding, _ = layer
                filter, bias = self.weights[number]
                size = (size + 2 * padding - kernel) // stride + 1
                outputs = size * size * bias.size
                macs += outputs * (filter[0].size + 1)
                values += outputs
            elif layer[0] == "linear":
                filter, bias = self.weights[layer[1]]
                macs += filter.size + bias.size
                values += bias.size
            elif layer[0] == "pool":
                size = (size - 3) // 2 + 1
        return {
            "model": self.variant,
            "checkpoint": "seed:0",
            "input_size": input_size(self.variant),
            "classes": self.logits.shape[1],
            "param_count": weights,
            "gmacs": macs / 1e9,
            "macts": values / 1e6,
            "split": None,
            "fc": None,
            "deterministic": False,
            "threads": threads,
        }


def read_safetensors(path):
    """Tensors of float32 by name: the format is a length, a JSON header and the data."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise SystemExit(f"{path}: {name} is {entry['dtype']}, only F32 is read")
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data, np.float32, offset=8 + length + begin, count=(end - begin) // 4)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def names(variant):
    """The tensors' names before `.weight` and `.bias`, by layer number."""
    if variant in ("torchvision", "half"):
        places = [f"features.{index}" for index in (0, 3, 6, 8, 10)] + [f"classifier.{index}" for index in (1, 4, 6)]
    else:
        places = [f"conv{number}" for number in range(1, 6)] + [f"fc{number}" for number in range(1, 4)]
    return dict(enumerate(places, 1))


def pictures(size):
    """Ramps and noise, which differ by picture."""
    x, y, c = np.arange(size), np.arange(size)[:, None], np.arange(3)
    ramp = (3 * x + 5 * y)[..., None] + 50 * c
    rng = np.random.default_rng(0)
    index = np.arange(PICTURES)[:, None, None, None]
    noise = rng.integers(0, 256, (PICTURES, size, size, 3))
    return (((ramp + 17 * index) % 256 + noise) // 2).astype(np.uint8)


def run(command):
    """A command's output; the run ends with its message where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{done.stderr}")
    return done.stdout


def prepare(alexnet, variant, folder):
    """The task in `folder`, made by the program `alexnet`."""
    folder = Path(folder) / variant
    folder.mkdir(parents=True, exist_ok=True)
    weights, pack = folder / "weights.safetensors", folder / "pictures.npy"
    run([alexnet, "convert", "seed:0", "--model", variant, "-o", weights])
    np.save(pack, pictures(input_size(variant)))
    # On the CPU, in float32, all classes: order by class, not by score.
    rows = run([alexnet, "predict", pack, "--model", variant, "--checkpoint", weights, "--device", "cpu",
                "--output-type", "logit", "--topk", "100000", "--results-format", "jsonl"])  # fmt: skip
    np.save(folder / "logits.npy", np.array([by_class(json.loads(row)) for row in rows.splitlines()], np.float32))
    return read(variant, folder.parent)


def read(variant, folder, with_weights=True):
    """What [`prepare`] made in `folder`; without its weights where they are not asked for."""
    folder = Path(folder) / variant
    weights, pack, expected = folder / "weights.safetensors", folder / "pictures.npy", folder / "logits.npy"
    by_number = {}
    if with_weights:
        tensors = read_safetensors(weights)
        by_number = {number: (tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for number, name in names(variant).items()}
    return Task(variant, folder, by_number, np.load(pack), np.load(expected))


def by_class(row):
    logits = {best["index"]: best["logit"] for best in row["predictions"]}
    return [logits[index] for index in range(len(logits))]
