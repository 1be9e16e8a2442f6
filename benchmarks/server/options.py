"""Compare options of an ONNX Runtime session by the CPU time of one inference with the iris model, without a server.

Writes the table of options to `benchmarks/README.md`.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from benchmarks.environments import ROOT
from benchmarks.report import machine, table, write_section

_MODEL = ROOT / "models" / "iris_svc.onnx"
_ROWS = (1, 100, 1000, 10000)
_ROUNDS = 9
_ROW_BUDGET = 20000

Inference = Callable[[np.ndarray], object]


def candidates() -> dict[str, Inference]:
    """Return functions that run an inference, by the name of the options."""
    default, one, bare = (ort.SessionOptions() for _ in range(3))
    for options in (one, bare):
        options.intra_op_num_threads = 1
    bare.enable_cpu_mem_arena = False
    run_options = ort.RunOptions()
    sessions = [ort.InferenceSession(_MODEL, options) for options in (default, one, bare)]
    names, name = ["probabilities"], sessions[0].get_inputs()[0].name

    def bind(rows: np.ndarray) -> object:
        binding = sessions[1].io_binding()
        binding.bind_cpu_input(name, rows)
        binding.bind_output("probabilities")
        sessions[1].run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return {
        "defaults": lambda rows: sessions[0].run(names, {name: rows}),
        "one thread": lambda rows: sessions[1].run(names, {name: rows}),
        "one thread, without the arena": lambda rows: sessions[2].run(names, {name: rows}),
        "one thread, IO binding": bind,
        "one thread, run options kept": lambda rows: sessions[1].run(names, {name: rows}, run_options),
        "one thread, run options kept, no Python wrapper (chosen)": lambda rows: sessions[1]._sess.run(
            names, {name: rows}, run_options
        ),
    }


def microseconds(inference: Inference, rows: np.ndarray) -> float:
    """Return the CPU time of one inference in all threads."""
    count = max(5, _ROW_BUDGET // len(rows))
    start = time.process_time()
    for _ in range(count):
        inference(rows)
    return (time.process_time() - start) / count * 1e6


def main() -> None:
    """Measure all options alternately, and write the medians."""
    found = candidates()
    chance = np.random.default_rng(0)
    batches = [chance.uniform(0.1, 8, (count, 4)).astype(np.float32) for count in _ROWS]
    measured: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in found}
    for _ in range(_ROUNDS):
        for name, inference in found.items():
            for figures, rows in zip(measured[name], batches, strict=True):
                figures.append(microseconds(inference, rows))
    cells = [[name, *(f"{statistics.median(figures):.1f}" for figures in row)] for name, row in measured.items()]
    head = ["CPU us per inference", *(f"{count} row{'s' * (count > 1)}" for count in _ROWS)]
    write_section("options", f"Medians of {_ROUNDS} rounds ({machine()}).\n\n{table(head, cells)}")


if __name__ == "__main__":
    main()
