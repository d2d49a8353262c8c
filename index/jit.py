"""The decorator of all compiled functions: cached on disk where possible, without the GIL, without checks.
And a hint for them: what will be read soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
from llvmlite import ir  # type: ignore[import-untyped]  # numba brings it
from numba.extending import intrinsic


def jit(*signature: Any, inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """numba.njit as this package uses it. Where no folder takes the cache, each process compiles anew."""

    def compiled(function: Callable[..., Any]) -> Any:
        options = {"nogil": True, "error_model": "numpy", "inline": inline}
        try:
            return nb.njit(*signature, cache=True, **options)(function)
        except RuntimeError:  # "no locator available": neither the package nor the home folder can be written
            return nb.njit(*signature, **options)(function)

    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """prefetch(array, index), in compiled code: starts to load that element's line; any index will do."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        text, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [text], ir.FunctionType(ir.VoidType(), [text, number, number, number])
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), text)
        # For reading, of data; into the second cache: the first holds what is worked on.
        builder.call(hint, [place, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return nb.types.void(array, nb.types.int64), generate
