"""What bench_networks.py and bench_chains.py share: how calls are timed, and KS products as people write them."""

import argparse
import statistics
import time

import torch

import ksauto

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def options_of(doc):
    """The command line's parser, with what both take."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--types", default="f32,f16,bf16")
    parser.add_argument("--runs", type=int, default=30, help="of which medians are taken")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--json", help="write the rows there")
    return parser


def begin(device):
    """TF32 off, and a line that says what runs where."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, ksauto {ksauto.__version__}, TF32 off")


def einsum(x, k):
    """The product by one factor (a, b, c, d) on the last dimension, by its definition."""
    a, b, c, d = k.shape
    x = x.reshape(*x.shape[:-1], a, c, d)
    return torch.einsum("ajkl,...akl->...ajl", k, x).reshape(*x.shape[:-3], a * b * d)


def graph_of(call, device):
    """A replay of the call's CUDA graph, or on a CPU the call."""
    if device.type == "cpu":
        call()
        return call
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def seconds(call, device, count=1, before=None):
    """Of one of `count` calls in a row, by the GPU's own clock where there is one."""
    if device.type == "cpu":
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begun) / count
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    if before is not None:
        before()
    start.record()
    for _ in range(count):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3 / count


def medians(calls, device, runs, count=1, before=None):
    """Median times of the calls, {name: call}: in turns, so that all see the same clocks and temperatures."""
    times = {name: [] for name in calls}
    for run in range(runs + 2):
        for name, call in calls.items():
            taken = seconds(call, device, count, before)
            if run >= 2:
                times[name].append(taken)
    return {name: statistics.median(each) for name, each in times.items()}


def error(got, want):
    """The largest difference as a share of the largest value."""
    got, want = got.double(), want.double()
    return float((got - want).abs().max() / want.abs().max())
