#!/usr/bin/env python3
"""Reads the machine code of the kernels in kernels/prebuilt for every GPU generation, and writes what it finds to
docs/performance.md.

    scripts/performance.py            write
    scripts/performance.py --check    fail where the document says otherwise

Either way it fails where a kernel spills, has a stack frame, or feeds its tensor cores too slowly. PTXAS and NVDISASM name
the tools; unset, the pinned ones are installed in target/toolchains.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from generated import ROOT, put


# Compute capability: warps and blocks that a multiprocessor holds, shared memory in KiB.
LIMITS = {
    "80": (64, 32, 164),
    "86": (48, 16, 100),
    "89": (48, 24, 100),
    "90": (64, 32, 228),
    "100": (64, 32, 228),
    "120": (48, 24, 100),
}
REGISTERS = 65536
# Tiles too small for four products a load, see the document.
EXEMPT = re.compile(r"_(64x64|gather)$")


def tool(variable, toolchain, name):
    if variable in os.environ:
        return os.environ[variable]
    command = f"source scripts/toolchain.sh && find \"$({toolchain})\" -path '*/bin/{name}'"
    found = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    if found.returncode or not found.stdout.strip():
        sys.exit(f"{name} cannot be installed, set {variable}:\n{found.stderr}")
    return str(ROOT / found.stdout.split()[0])


def blocks(arch, registers, threads, shared):
    """Blocks that a multiprocessor holds at once."""
    warps, most, memory = LIMITS[arch]
    block_warps = -(-threads // 32)
    # Registers are handed out to warps in steps of 256.
    warp_registers = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS // warp_registers // block_warps
    by_shared = memory * 1024 // (shared + 1024)  # the system keeps 1 KiB of each block's
    return min(warps // block_warps, by_registers, by_shared, most)


def loop_ratio(code):
    """HMMA for each LDSM in the smallest loop with both; None without."""
    labels = {m[1]: m.start() for m in re.finditer(r"^(\.L_x_\d+):", code, re.M)}
    best = None
    for branch in re.finditer(r"\bBRA\b[^;]*?`\((\.L_x_\d+)\)", code):
        begin = labels.get(branch[1], len(code))
        body = code[begin : branch.start()]
        products, loads = len(re.findall(r"\bHMMA\.", body)), len(re.findall(r"\bLDSM\.", body))
        if begin < branch.start() and products and loads and (best is None or len(body) < best[0]):
            best = (len(body), products / loads)
    return best and best[1]


def examine(ptxas, nvdisasm, arch, ptx):
    """Kernel name: registers, threads, shared memory, HMMA:LDSM, part of accesses that are 16 bytes a lane."""
    threads = dict(re.findall(r"\.entry (\w+)\([^{]*?\.maxntid (\d+)", ptx.read_text(), re.S))
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernels.cubin"
        run = subprocess.run([ptxas, "-v", f"-arch=sm_{arch}", ptx, "-o", cubin], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{ptx.name}, sm_{arch}: {run.stderr}")
        sass = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    kernels = {}
    for part in run.stderr.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        if re.search(r"[1-9]\d* bytes (stack frame|spill)", part):
            sys.exit(f"{name} spills or has a stack frame on sm_{arch}:\n{part}")
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = int((re.search(r"(\d+) bytes smem", part) or [0, 0])[1])
        code = sass.split(f".section\t.text.{name},")[1].split(".section\t")[0]
        accesses = re.findall(r"\b(?:LDGSTS|LDG|STG)\.[\w.]+", code)
        wide = sum(".128" in access for access in accesses)
        ratio = loop_ratio(code)
        if name.startswith("conv_") and "f32_" not in f"{name}_".replace("tf32", "") and not EXEMPT.search(name):
            if ratio is None or ratio < 4:
                sys.exit(f"{name}, sm_{arch}: {ratio} HMMA for each LDSM in the main loop, 4 are needed")
        kernels[name] = (registers, int(threads[name]), shared, ratio, wide / len(accesses) if accesses else None)
    return kernels


def table():
    ptxas, nvdisasm = tool("PTXAS", "cuda13", "ptxas"), tool("NVDISASM", "nvdisasm", "nvdisasm")
    modules = sorted((ROOT / "kernels/prebuilt").glob("*.ptx"))
    found = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(arch, ptx): pool.submit(examine, ptxas, nvdisasm, arch, ptx) for ptx in modules for arch in LIMITS}
        for (arch, _), job in jobs.items():
            for name, figures in job.result().items():
                found.setdefault(name, {})[arch] = figures
    archs = " / ".join(LIMITS)
    lines = [
        f"| kernel | threads | shared memory | registers, sm_{archs} | blocks, sm_{archs} | HMMA:LDSM | 128 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_arch in sorted(found.items()):
        figures = [by_arch[arch] for arch in LIMITS]
        registers = " / ".join(str(f[0]) for f in figures)
        resident = " / ".join(str(blocks(arch, f[0], f[1], f[2])) for arch, f in zip(LIMITS, figures))
        # Of the generations, what is worst.
        ratios, wide = [f[3] for f in figures if f[3] is not None], [f[4] for f in figures if f[4] is not None]
        ratio = f"{min(ratios):.1f}" if ratios else ""
        share = f"{100 * min(wide):.0f} %" if wide else ""
        lines.append(f"| `{name}` | {figures[0][1]} | {figures[0][2]:,} | {registers} | {resident} | {ratio} | {share} |")
    return "\n".join(lines)


def main():
    put("docs/performance.md", "resources", table(), "--check" in sys.argv[1:], "scripts/performance.py")


main()
