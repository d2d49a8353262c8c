"""Text encoders on ONNX Runtime and OpenVINO: the network as a graph, all else as text_encoder.py does it.

Batches are sorted by length, so that little of them is padding. The libraries are imported when their backend
is asked for.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoder import Kind, Vectors
from retrieval.errors import MissingExtra, StorageError, UserError
from retrieval.index import gate
from retrieval.index.bert import Bert
from retrieval.index.graph_files import Padded, cached, examples, export_onnx
from retrieval.index.packed import plan_batches
from retrieval.index.pooling import pool
from retrieval.index.processor import bfloat16_pays
from retrieval.index.text_encoder import TextEncoder
from retrieval.index.text_params import TextParams
from retrieval.index.torch_encoder import Sequences

Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]  # ids, mask -> states
_BUDGET = 2048  # tokens of a batch
_CLOSE = 2e-3  # states of a float32 graph and of torch, which have a size of about 1: rounding alone
_PRECISIONS = {"onnx": ("float32", "int8"), "openvino": ("float32", "bfloat16")}


class GraphEncoder:
    """See retrieval.encoder.DenseEncoder. backend: onnx or openvino.

    Its identity is that of the encoder on torch, so that an index may be built with one and searched with
    the other.
    """

    def __init__(self, path: str, params: TextParams) -> None:
        self.backend = params.backend
        known = _PRECISIONS[self.backend]
        if params.precision not in ("auto", *known):
            raise UserError(
                f"precision={params.precision} is not offered with backend={self.backend}; it has "
                f"{' and '.join(known)}"
            )
        if params.device not in ("auto", "cpu"):
            raise UserError(
                f"device={params.device}: backend={self.backend} computes on the CPU here; leave it out"
            )
        self._library: Any = _onnxruntime() if self.backend == "onnx" else _openvino()
        plain = replace(params, backend="torch", precision="float32", device="cpu")
        self._params = params
        self._torch = TextEncoder(path, plain)
        network = self._torch.network
        if not isinstance(network, Bert):
            raise UserError(
                f"backend={self.backend} computes BERT, RoBERTa, DistilBERT, MPNet and their like; {path!r} "
                f"is a {self._torch.kind!r} model; use backend=torch"
            )
        self._bert = network
        self.budget = params.batch or _BUDGET
        self.dim = self._torch.dim

    @property
    def identity(self) -> Mapping[str, Any]:
        """See retrieval.encoder.DenseEncoder."""
        return self._torch.identity

    @property
    def runtime(self) -> Mapping[str, Any]:
        """See retrieval.encoder.DenseEncoder. The first look at it makes the graph, and measures it."""
        more = {"gate": self._gate} if self._gate else {}
        return {"backend": self.backend, "precision": self._precision, **more}

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See retrieval.encoder.DenseEncoder."""
        sequences = self._torch.prepare(texts, kind)
        rows = self._rows(self._run, sequences)
        if not np.isfinite(rows).all():
            raise UserError("the model gives vectors that are not finite; its files are damaged")
        return Vectors(rows, sequences.tokens, sequences.dropped)

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """See TextEncoder.offsets."""
        return self._torch.offsets(texts)

    def _rows(self, run: Run, sequences: Sequences) -> NDArray[np.float32]:
        rows = np.empty((len(sequences.ids), self.dim), np.float32)
        head: Any = self._torch.module.head
        for batch in plan_batches([len(ids) for ids in sequences.ids], self.budget):
            chosen = sequences.take(batch)
            lengths = np.array([len(ids) for ids in chosen.ids])
            real = np.arange(lengths.max()) < lengths[:, None]
            ids = np.full(real.shape, self._torch.config.get("pad_token_id") or 0, np.int64)
            ids[real] = np.concatenate(chosen.ids)
            try:
                states = run(ids, real.astype(np.int64))[real]
            except MemoryError as error:
                raise StorageError(
                    f"out of memory in a batch of {real.size} tokens; give a smaller batch="
                ) from error
            ends = np.concatenate([[0], np.cumsum(lengths)])
            with torch.inference_mode():
                hidden, offsets = torch.from_numpy(states), torch.from_numpy(ends)
                rows[batch] = head(
                    pool(hidden, offsets, self._torch.layout.pooling, torch.from_numpy(chosen.skip))
                ).numpy()
        return rows

    @cached_property
    def _precision(self) -> str:
        """Settled at the first use. Raises UserError for one that the gate refuses."""
        if self._gate is not None and not gate.holds(self._gate):
            if self._params.precision != "auto":
                gate.refuse(self._gate, f"precision={self._wanted} on {self.backend}")
            self._gate = None
            return "float32"
        return self._wanted

    @cached_property
    def _wanted(self) -> str:
        if self._params.precision != "auto":
            return self._params.precision
        return "bfloat16" if self.backend == "openvino" and bfloat16_pays() else "float32"

    @cached_property
    def _gate(self) -> dict[str, float] | None:
        if self._wanted == "float32":
            return None
        key = {"identity": self.identity, "precision": self._wanted, "backend": self.backend,
               "version": str(self._library.__version__)}  # fmt: skip
        return gate.remembered(key, self._measure)

    def _measure(self) -> dict[str, float]:
        probe = self._torch.prepare(gate.PROBE)
        exact = self._torch.encode(gate.PROBE).rows
        return gate.measure(self._rows(self._open(self._wanted), probe), exact)

    @cached_property
    def _run(self) -> Run:
        return self._open(self._precision)

    def _open(self, precision: str) -> Run:
        model = self.identity["model"]
        key = {name: model[name] for name in ("weights", "config")}
        key |= {
            "backend": self.backend,
            "version": str(self._library.__version__),
            "torch": torch.__version__,
        }
        if self.backend == "openvino":
            folder = cached(key, self._make_openvino)
            return _openvino_run(self._library, folder, precision, self._params.threads)
        folder = cached(
            {**key, "precision": precision}, self._make_onnx if precision == "float32" else self._make_int8
        )
        return _onnx_run(self._library, folder, self._params.threads)

    def _make_onnx(self, folder: str) -> None:
        export_onnx(self._bert, os.path.join(folder, "graph.onnx"))
        self._check(_onnx_run(self._library, folder, 1))

    def _make_int8(self, folder: str) -> None:
        """Matrix products alone, one scale a column of the weights: what loses least of the usual ways."""
        try:
            from onnxruntime.quantization import QuantType, quantize_dynamic
        except ImportError:
            raise MissingExtra("onnx", "precision=int8 needs the package onnx, which is") from None
        wide = os.path.join(folder, "wide.onnx")
        export_onnx(self._bert, wide)
        quantize_dynamic(
            wide, os.path.join(folder, "graph.onnx"), op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        os.unlink(wide)

    def _make_openvino(self, folder: str) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's
            model = self._library.convert_model(Padded(self._bert).eval(), example_input=examples())
        self._library.save_model(model, os.path.join(folder, "graph.xml"), compress_to_fp16=False)
        self._check(_openvino_run(self._library, folder, "float32", 1))

    def _check(self, run: Run) -> None:
        """The graph gives what torch gives, for shapes that it was not traced with."""
        random = np.random.default_rng(0)
        shortest = min(19, self._bert.config.longest)
        for lengths in ([shortest, 4, 1, shortest], [7]):
            real = np.arange(max(lengths)) < np.array(lengths)[:, None]
            ids = random.integers(0, self._bert.config.vocab_size, real.shape)
            mask = real.astype(np.int64)
            with torch.inference_mode():
                expected = Padded(self._bert)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            if np.abs(run(ids, mask) - expected)[real].max() > _CLOSE * max(
                1.0, float(np.abs(expected[real]).max())
            ):
                raise UserError(
                    f"the graph that {self.backend} {self._library.__version__} makes of this model computes "
                    "something else than torch; use backend=torch"
                )


def _onnx_run(library: Any, folder: str, threads: int) -> Run:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = library.InferenceSession(
        os.path.join(folder, "graph.onnx"), options, providers=["CPUExecutionProvider"]
    )

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        states: NDArray[np.float32] = session.run(None, {"ids": ids, "mask": mask})[0]
        return states

    return run


@cache
def _core(library: Any) -> Any:
    # One, for as long as the process lives. The first gives signal handlers a stack of its own, and the last
    # frees it while it is still in use: the next Ctrl-C would crash.
    return library.Core()


def _openvino_run(library: Any, folder: str, precision: str, threads: int) -> Run:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = _core(library)
    request = core.compile_model(os.path.join(folder, "graph.xml"), "CPU", settings).create_infer_request()
    turn = threading.Lock()  # a request has one output, which another thread's call would overwrite

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with turn:
            request.infer([ids, mask])
            states: NDArray[np.float32] = np.array(request.get_output_tensor(0).data, np.float32)
        return states

    return run


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnx", "backend=onnx") from None
    return onnxruntime


def _openvino() -> Any:
    # It reports its import and every conversion to its makers through this package, and does without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("openvino", "backend=openvino") from None
    return openvino
