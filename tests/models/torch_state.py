"""Reads a PyTorch state dict (.pth) into NumPy arrays, without PyTorch.

Both container formats are understood: the zip archive of PyTorch 1.6 and later, and the older stream of pickles.
Only the few globals that a state dict needs can be unpickled; anything else is refused.
"""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np

STORAGE_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class LazyTensor:
    """A tensor whose storage may not have been read yet."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def numpy(self, storages):
        flat = storages[self.storage][self.offset :]
        byte_strides = [stride * flat.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat, self.shape, byte_strides))


def rebuild_tensor(storage, offset, shape, strides, *_unused):
    return LazyTensor(storage, offset, shape, strides)


class StateDictUnpickler(pickle.Unpickler):
    """Resolves the globals of a state dict; remembers the type of every storage that it meets."""

    def __init__(self, file):
        super().__init__(file)
        self.storage_types = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_unused: tensor
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise pickle.UnpicklingError(f"a state dict does not need {module}.{name}")

    def persistent_load(self, identifier):
        kind, dtype, key = identifier[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        self.storage_types[key] = dtype
        return key


def load_zip(path):
    """Reads the zip format: data.pkl beside one file per storage."""
    with zipfile.ZipFile(path) as archive:
        pickle_name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickle_name[: -len("data.pkl")]
        unpickler = StateDictUnpickler(io.BytesIO(archive.read(pickle_name)))
        state = unpickler.load()
        storages = {
            key: np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
            for key, dtype in unpickler.storage_types.items()
        }
    return state, storages


def load_stream(path):
    """Reads the older format: magic, version, system information, state dict, storage keys, storages."""
    with open(path, "rb") as file:
        if StateDictUnpickler(file).load() != 0x1950A86A20F9469CFC6C:
            raise ValueError(f"{path}: neither of the two PyTorch formats")
        StateDictUnpickler(file).load()
        StateDictUnpickler(file).load()
        unpickler = StateDictUnpickler(file)
        state = unpickler.load()
        keys = StateDictUnpickler(file).load()
        storages = {}
        for key in keys:
            dtype = unpickler.storage_types[key]
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return state, storages


def load_state_dict(path):
    """Returns the tensors of a flat state dict as a dictionary from name to array, in the order of the file."""
    state, storages = load_zip(path) if zipfile.is_zipfile(path) else load_stream(path)
    return {name: tensor.numpy(storages) for name, tensor in state.items() if isinstance(tensor, LazyTensor)}
