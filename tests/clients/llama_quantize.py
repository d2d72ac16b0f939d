"""``llama-quantize IN OUT TYPE`` by way of llama.cpp's library: ``llama_model_quantize`` of ``llama.h``."""

import ctypes
import os
import sys
from pathlib import Path

FILE_TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}


class Parameters(ctypes.Structure):
    """The head of ``llama_model_quantize_params``; what follows keeps its defaults."""

    _fields_ = (
        ("threads", ctypes.c_int32),
        ("file_type", ctypes.c_int32),
        ("output_type", ctypes.c_int32),
        ("embedding_type", ctypes.c_int32),
        ("rest", ctypes.c_byte * 240),
    )


def open_library() -> ctypes.CDLL:
    """Open llama.cpp's library from the packages in ``.clients``."""
    modules = Path(os.environ["LLAMA_CPP_MODULES"])
    [folder] = {path.parent for path in modules.glob("@node-llama-cpp/*/bins/*/libggml-base.*")}
    for pattern in ("libggml-base.*", "libggml.*", "libllama.*"):
        for path in sorted(folder.glob(pattern)):
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return library


if __name__ == "__main__":
    source, target, kind = sys.argv[1:]
    library = open_library()
    library.llama_model_quantize_default_params.restype = Parameters
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)]
    library.llama_model_quantize.restype = ctypes.c_uint32
    parameters = library.llama_model_quantize_default_params()
    parameters.file_type = FILE_TYPES[kind]
    parameters.threads = 1
    raise SystemExit(library.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)))
