#!/usr/bin/env python3
"""Lists every distinct (domain, operator, opset) of the ONNX files below some folders, with counts.

One line each: domain (ai.onnx for the default one), operator, opset that the file imports, nodes, files; subgraphs and
model-local functions included (a call to a local function is listed under its own domain). Needs onnx.
"""

import argparse
import collections
import pathlib

import onnx


def nodes_of(nodes):
    """All nodes, those of subgraphs included."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                yield from nodes_of(graph.node)


def count(path):
    """Counts the operators of one file."""
    model = onnx.load(path, load_external_data=False)
    counter = collections.Counter()
    for scope in [model.graph, *model.functions]:
        imports = model.opset_import if scope is model.graph else scope.opset_import
        versions = {entry.domain or "ai.onnx": entry.version for entry in imports}
        for node in nodes_of(scope.node):
            domain = node.domain or "ai.onnx"
            counter[domain, node.op_type, versions.get(domain, 0)] += 1
    return counter


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, help="files, and folders to search for *.onnx")
    parser.add_argument("--names", action="store_true", help="one line per operator only: name, nodes, files, opsets")
    arguments = parser.parse_args()
    nodes, files = collections.Counter(), collections.Counter()
    for folder in arguments.folders:
        for path in sorted(folder.rglob("*.onnx")) if folder.is_dir() else [folder]:
            found = count(path)
            nodes.update(found)
            files.update(found.keys())
    if arguments.names:
        for domain, name in sorted({key[:2] for key in nodes}):
            keys = sorted(key for key in nodes if key[:2] == (domain, name))
            opsets = ",".join(str(key[2]) for key in keys)
            print(domain, name, sum(nodes[key] for key in keys), sum(files[key] for key in keys), opsets, sep="\t")
    else:
        for key in sorted(nodes):
            print(*key, nodes[key], files[key], sep="\t")


if __name__ == "__main__":
    main()
