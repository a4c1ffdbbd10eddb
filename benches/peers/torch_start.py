"""torchvision's AlexNet from a checkpoint and a picture to the best class: torch_start.py WEIGHTS PICTURE THREADS"""

import sys
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torchvision import transforms

import task as tasks

weights, picture, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
model = torchvision.models.alexnet().eval()
model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tasks.read_safetensors(weights).items()})
transform = transforms.Compose([
    transforms.Resize(256),
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
])  # fmt: skip
with torch.inference_mode():
    logits = model(transform(Image.open(picture).convert("RGB")).unsqueeze(0))
print(int(logits.argmax()), flush=True)
