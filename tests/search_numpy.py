"""Chains that `ksauto advise --search --json` lists: they fit into one another, every output depends on every input, the parameters
are as said, and none is beaten in parameters and time at once. Run by test_command.sh: search_numpy.py FILE..."""
import json
import sys

import numpy as np


def support(f):
    """I_a (x) 1_{b x c} (x) I_d"""
    return np.kron(np.kron(np.eye(f["a"]), np.ones((f["b"], f["c"]))), np.eye(f["d"]))


for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    assert found["chains"], path
    for chain in found["chains"]:
        product = np.eye(found["outputs"])
        for factor in chain["factors"]:
            product = product @ support(factor)
        assert product.shape == (found["outputs"], found["inputs"]), (path, chain)
        assert (product > 0).all(), (path, chain)
        assert chain["parameters"] == sum(f["a"] * f["b"] * f["c"] * f["d"] for f in chain["factors"]), (path, chain)
        assert abs(chain["time_s"] - sum(f["time_s"] for f in chain["factors"])) < 1e-9, (path, chain)
        for other in found["chains"]:
            beaten = other["parameters"] >= chain["parameters"] and other["time_s"] <= chain["time_s"]
            assert other is chain or not beaten, (path, chain, other)
