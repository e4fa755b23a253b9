"""A reader of pickles that knows data and nothing else: it can't be made to run anything.

A pickle is a program for a machine with a stack, and Python's own machine calls whatever function
the program names. This one has the instructions that build numbers, text, lists, dicts and tuples,
and those with which torch.save writes tensors. It knows four functions and torch's ten classes of
storages by name; any other name is refused. (Opcodes: CPython's Lib/pickletools.py. Names:
torch/_utils.py.)

Everything is bounded by the bytes that are there: a place in the memo must be the next one, text
can't be longer than the rest of the pickle, and the number of instructions is limited.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigpt.checkpoints.reader import are_counts

MAX_BYTES = 1 << 24
MAX_INSTRUCTIONS = 1 << 21
"""GPT-2 XL's state dict takes about 30,000, in 100 kB."""

# The classes of torch's storages -> the names of their dtypes.
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32",
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A run of `size` elements, which lies elsewhere under a key."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class Strided:
    """A tensor: elements of a storage from `offset` on; `strides` elements lie from one index of an
    axis to the next.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """What the pickle calls `module.name`."""

    text: str


class _Mark:
    """Where the elements of a list, dict or tuple begin on the stack."""


_MARK = _Mark()


def read_pickle(data: bytes, start: int, where: str) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and where it ends.

    The value is made of None, bool, int, float, str, bytes, list, tuple, dict, Name, Storage and
    Strided. ValueError, that begins with `where`, for anything else, and for damage.
    """
    machine = _Machine(data, start)
    try:
        return machine.run(), machine.position
    except _RefusedError as error:
        raise ValueError(f"{where}: {error}") from None


class _RefusedError(Exception):
    """What is wrong with the pickle."""


class _Machine:
    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def run(self) -> Any:
        """Follow the instructions up to STOP; what is then on top of the stack."""
        for _ in range(MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise _RefusedError(f"instruction {code!r} of the pickle is none that torch writes")
            instruction(self)
        raise _RefusedError(f"more than {MAX_INSTRUCTIONS:,} instructions: no model needs as many")

    # ---- bytes and stack

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = self.data[self.position : self.position + count]
        if len(part) < count:
            raise _RefusedError("the pickle ends in the middle: the file was cut off")
        self.position += count
        return part

    def number(self, layout: str) -> Any:
        """The next number, in struct's notation."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, count: int) -> str:
        """The next bytes as text."""
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise _RefusedError("text in the pickle is not UTF-8") from None

    def line(self) -> str:
        """Text up to the end of the line."""
        end = self.data.find(b"\n", self.position)
        if not 0 <= end - self.position < 1000:
            raise _RefusedError("a name in the pickle does not end")
        text = self.text(end - self.position)
        self.position += 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _RefusedError("the pickle takes more from its stack than is there")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top, which stays, and must be a list or a dict."""
        value = self.pop()
        if not isinstance(value, kind):
            raise _RefusedError(f"the pickle fills a {type(value).__name__} as another kind")
        self.push(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise _RefusedError("the pickle lacks the beginning of a list")

    # ---- the longer instructions

    def put(self, place: int) -> None:
        """Remember what is on top of the stack."""
        value = self.pop()
        self.push(value)
        if place == len(self.memo):
            self.memo.append(value)
        elif place < len(self.memo):
            self.memo[place] = value
        else:
            raise _RefusedError(f"place {place} of the memo is not the next, {len(self.memo)}")

    def get(self, place: int) -> None:
        if place >= len(self.memo):
            raise _RefusedError(f"the pickle recalls from place {place}, where nothing is")
        self.push(self.memo[place])

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise _RefusedError("a dict in the pickle has a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2]):
            if not isinstance(key, (str, int)):  # a tuple could be nested too deeply to hash
                raise _RefusedError(f"a dict in the pickle has a {type(key).__name__} as a key")
            target[key] = value

    def reduce(self) -> None:
        """Call a function, if it is one of the four that are known here."""
        arguments, function = self.pop(), self.pop()
        known = _FUNCTIONS.get(function.text) if isinstance(function, Name) else None
        if known is None or not isinstance(arguments, tuple):
            raise _RefusedError("the pickle calls what is no function")
        self.push(known(*arguments))

    def build(self) -> None:
        """An OrderedDict's attributes (torch's `_metadata`) are of no use here."""
        self.pop()
        self.top(dict)

    def name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        if text in _FUNCTIONS or (module == "torch" and name in STORAGES):
            self.push(Name(text))
        else:
            raise _RefusedError(
                f"the pickle asks for {text[:100]!r}. Only tensors are read, because a pickle may "
                "name any function and have it called; in torch, save model.state_dict() alone"
            )

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _RefusedError("a name in the pickle is no text")
        self.name(module, name)

    def persistent(self) -> None:
        """("storage", class, key, device, size), and in old files what part of another it is."""
        values = self.pop()
        if not isinstance(values, tuple) or len(values) not in (5, 6) or values[0] != "storage":
            raise _RefusedError("the pickle refers to something outside that is no storage")
        _, kind, key, _, size = values[:5]
        if not isinstance(kind, Name) or not kind.text.startswith("torch."):
            raise _RefusedError("a storage in the pickle has no class")
        if not isinstance(key, str) or not are_counts([size]):
            raise _RefusedError("a storage in the pickle has no key, or no size")
        if len(values) == 6 and values[5] is not None:
            raise _RefusedError(f"storage {key[:40]!r} is a part of another, as torch wrote before "
                                "version 0.4; load it with torch and save it again")  # fmt: skip
        dtype = STORAGES.get(kind.text.removeprefix("torch."))
        if dtype is None:
            raise _RefusedError("a storage in the pickle has no class")
        self.push(Storage(dtype, key, size))


def _tensor(*arguments: Any) -> Strided:
    """torch._utils._rebuild_tensor(storage, offset, shape, strides), and _rebuild_tensor_v2, which
    adds two arguments that concern gradients, and flags.
    """
    if not 4 <= len(arguments) <= 7 or not isinstance(arguments[0], Storage):
        raise _RefusedError("a tensor in the pickle has no storage")
    storage, offset, shape, strides = arguments[:4]
    if arguments[6:] not in ((), (None,), ({},)):
        raise _RefusedError("a tensor in the pickle is a negated or conjugated view of its storage")
    if not are_counts([offset]) or not are_counts(shape) or not are_counts(strides):
        raise _RefusedError("a tensor in the pickle has an impossible offset, shape or stride")
    if len(shape) != len(strides):
        raise _RefusedError("a tensor in the pickle has more axes than strides, or fewer")
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _parameter(*arguments: Any) -> Strided:
    """torch._utils._rebuild_parameter: a tensor."""
    if not arguments or not isinstance(arguments[0], Strided):
        raise _RefusedError("a parameter in the pickle is no tensor")
    return arguments[0]


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    """collections.OrderedDict, which pickles as an empty one that is filled."""
    if arguments:
        raise _RefusedError("an OrderedDict in the pickle does not start empty")
    return {}


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


def _long(machine: _Machine) -> None:
    count = machine.number("B")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _tuple(count: int) -> Callable[[_Machine], None]:
    def instruction(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return instruction


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.top(list).extend(values)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO: the version
    b"\x95": lambda m: m.take(8),  # FRAME: how much to read ahead
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop(),
    # numbers and text
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": _long,
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.text(m.number("<I"))),
    b"\x8c": lambda m: m.push(m.text(m.number("B"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    # tuples, lists and dicts
    b")": lambda m: m.push(()),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"a": _append,
    b"e": _appends,
    b"}": lambda m: m.push({}),
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    # the memo
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("B")),
    b"j": lambda m: m.get(m.number("<I")),
    # names and what is made of them
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.stack_name(),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.persistent(),
}
