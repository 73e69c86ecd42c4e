"""Safe reading of pickles as data: nothing that a pickle names is ever imported or called.

Python's own unpickler imports and calls whatever the file names, so an unknown file may run any program. Here every
name becomes a `PickleName` and every constructed object a `PickleRecord`; names outside of an allow-list are refused.
`flamejax.head.formats.pickle_arrays` converts the few kinds of records in head models to arrays.

Format: the opcodes of Python's documentation of `pickletools`, protocols 0 to 5, with Python 2's strings as latin-1.
"""

import codecs
import dataclasses
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from flamejax.head.formats.files import HeadFileError

MAX_STEPS = 2_000_000
"""Most opcodes of a pickle: a head model has some thousands, and a hostile file must not run for ever."""

_NUMPY = r"numpy\.(?:_?core)\."
_ALLOWED = re.compile(
    rf"{_NUMPY}multiarray (?:_reconstruct|scalar)|{_NUMPY}numeric _frombuffer|numpy (?:ndarray|dtype)"
    r"|scipy\.sparse(?:\.\w+)* (?:csc|csr|coo)_(?:matrix|array)"
    r"|chumpy\.ch Ch|chumpy Ch|chumpy\.reordering Select"
    r"|collections OrderedDict|copy_?reg _reconstructor|_codecs encode"
    r"|(?:__builtin__|builtins) (?:object|set|frozenset|bytes|bytearray)"
    r"|torch\._utils _rebuild_tensor(?:_v2)?|torch\.storage _load_from_bytes"
    r"|torch (?:Float|Double|Half|Long|Int|Short|Char|Byte|Bool)Storage"
)

_ESCAPED_STRING = re.compile(rb"(?:[^\\]++|\\(?:x[0-9a-fA-F]{2}|[\\'\"nrt]))*+")
"""A string with the escapes of Python 2's repr."""


@dataclasses.dataclass(frozen=True)
class PickleName:
    """An allowed name of a class or function, in place of the class or function itself."""

    module: str
    name: str

    @property
    def kind(self) -> str:
        """The name without its module, which suffices to tell the allowed names apart."""
        return self.name


@dataclasses.dataclass(eq=False, repr=False)
class PickleRecord:
    """An object that the file constructs: its class or function, the arguments and the state.

    Comparison and repr are disabled: a small file can nest its parts so that either would run for ever.
    """

    kind: str
    args: tuple[Any, ...] = ()
    state: Any = None


def load_pickle(
    data: bytes, where: str, start: int = 0, also: re.Pattern[str] | None = None, of: str = "head model"
) -> tuple[Any, int]:
    """Read one pickle.

    Args:
      data: the file's content.
      where: name of the file, for messages.
      start: position of the pickle's first byte.
      also: further allowed names, "module name". They too become `PickleName`s and `PickleRecord`s and are never
        called. If given, items that are set on or appended to a `PickleRecord` are ignored.
      of: expected content of the file, for messages.

    Returns:
      The object, which consists of Python's basic types, `PickleName` and `PickleRecord`; and the position after it.

    Raises:
      HeadFileError: the pickle is damaged or too long, or names something that is not allowed.
    """
    machine = _PickleMachine(data, where, start, also, of)
    try:
        return machine.run(), machine.position
    except HeadFileError:
        raise
    # Each of these comes from a damaged opcode: an empty stack, a text that is no number, an unhashable key.
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise HeadFileError(
            f"{where}: the pickle is damaged near byte {machine.position} ({type(error).__name__}). "
            "Fetch the file again."
        ) from error
    except (MemoryError, RecursionError) as error:
        raise HeadFileError(f"{where}: the pickle asks for more memory than there is.") from error


class _PickleMachine:
    """The stack machine that executes a pickle's opcodes."""

    def __init__(self, data: bytes, where: str, start: int, also: re.Pattern[str] | None, of: str) -> None:
        self.data, self.where, self.position = data, where, start
        self.also, self.of = also, of
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps_left = MAX_STEPS

    def run(self) -> Any:
        data = self.data
        while self.steps_left > 0:
            self.steps_left -= 1
            if self.position >= len(data):
                self.fail("ends in the middle")
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            action = _ACTIONS.get(code)
            if action is None:
                self.fail(f"uses opcode 0x{code:02x}, which no {self.of} needs")
            action(self)
        raise HeadFileError(f"{self.where}: the pickle has more than {MAX_STEPS} steps: it is no {self.of}.")

    def fail(self, problem: str) -> NoReturn:
        raise HeadFileError(f"{self.where}: the pickle {problem} (byte {self.position}). Fetch the file again.")

    # Operands of opcodes.

    def read(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self.data):
            self.fail(f"is cut off: {count} bytes are announced and {len(self.data) - self.position} remain")
        self.position += count
        return self.data[self.position - count : self.position]

    def read_number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.read(struct.calcsize("<" + form)))[0]

    def read_line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.fail("ends in the middle")
        text, self.position = self.data[self.position : end], end + 1
        # Files that were copied in a Windows text mode have carriage returns.
        return text.removesuffix(b"\r")

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # Actions of opcodes.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if self.also is not None and type(target) is PickleRecord:
            return
        if type(target) is not dict or len(items) % 2:
            self.fail("sets items of something that is no dictionary")
        target.update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if self.also is not None and type(target) is PickleRecord:
            return
        if type(target) is not list:
            self.fail("appends to something that is no list")
        target.extend(items)

    def push_name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.fail("names something that is no text")
        full_name = f"{module} {name}"
        if not (_ALLOWED.fullmatch(full_name) or (self.also is not None and self.also.fullmatch(full_name))):
            raise HeadFileError(
                f"{self.where}: the pickle names {module[:80]}.{name[:80]}, which no {self.of} needs. It was not "
                "opened: such a file can run programs. Fetch it again from where it is published."
            )
        self.push(PickleName(module, name))

    def construct(self, callee: Any, args: Any) -> None:
        if not isinstance(callee, PickleName) or type(args) is not tuple:
            self.fail("calls something that is no allowed name")
        kind = callee.kind
        if kind == "_reconstructor":
            if not (args and isinstance(args[0], PickleName)):
                self.fail("constructs something without a class")
            kind, args = args[0].kind, ()
        if kind == "OrderedDict":
            if args and not (len(args) == 1 and type(args[0]) is list):
                self.fail("has a dictionary of unknown form")
            self.steps_left -= len(args[0]) if args else 0  # One list can become many dictionaries.
            self.push({_checked_key(key): value for key, value in (args[0] if args else [])})
        else:
            self.push(PickleRecord(kind, args))

    def new_object(self, with_keywords: bool) -> None:
        if with_keywords and self.stack.pop() != {}:
            self.fail("constructs something with keywords")
        args = self.stack.pop()
        self.construct(self.stack.pop(), args)

    def reduce(self) -> None:
        args = self.stack.pop()
        self.construct(self.stack.pop(), args)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is dict and isinstance(state, dict):
            return  # Attributes of an OrderedDict are not needed.
        if type(target) is not PickleRecord or target.state is not None:
            self.fail("sets a state twice, or on something without state")
        target.state = state


def _checked_key(key: Any) -> Any:
    """Check a dictionary's key. Nested tuples could take for ever to hash, so they are refused."""
    if not isinstance(key, str | bytes | int | float | bool | PickleRecord | PickleName | None):
        raise TypeError("unsupported key")
    return key


def _decode_utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _python2_string(machine: _PickleMachine) -> str:
    line = machine.read_line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        machine.fail("has a string without quotes")
    if not _ESCAPED_STRING.fullmatch(line, 1, len(line) - 1):
        machine.fail("has a string with escapes that Python 2 did not write")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _python2_integer(machine: _PickleMachine) -> int | bool:
    line = machine.read_line()
    return line == b"01" if line in (b"00", b"01") else int(line)


def _mark(machine: _PickleMachine) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _PickleMachine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _tuple(count: int) -> Callable[[_PickleMachine], None]:
    def action(machine: _PickleMachine) -> None:
        items = [machine.stack.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return action


def _dict(machine: _PickleMachine) -> None:
    items = machine.pop_to_mark()
    machine.push({})
    machine.set_items(items)


def _stack_global(machine: _PickleMachine) -> None:
    name = machine.stack.pop()
    machine.push_name(machine.stack.pop(), name)


def _object(machine: _PickleMachine) -> None:
    callee, *args = machine.pop_to_mark()
    machine.construct(callee, tuple(args))


def _instance(machine: _PickleMachine) -> None:
    module, name = machine.read_line().decode(), machine.read_line().decode()
    args = tuple(machine.pop_to_mark())
    machine.push_name(module, name)
    machine.construct(machine.stack.pop(), args)


def _add_items(machine: _PickleMachine) -> None:
    machine.pop_to_mark()  # The items are dropped: sets contain only chumpy's bookkeeping.
    if not isinstance(machine.stack[-1], PickleRecord) or machine.stack[-1].kind != "set":
        machine.fail("adds to something that is no set")


_ACTIONS: dict[int, Callable[[_PickleMachine], Any]] = {
    0x80: lambda m: m.read_number("B") > 5 and m.fail("has a protocol newer than 5"),
    0x95: lambda m: m.read_number("Q"),  # FRAME: a hint for reading ahead
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda m: m.pop_to_mark(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): lambda m: m.push(_python2_integer(m)),
    ord("J"): lambda m: m.push(m.read_number("i")),
    ord("K"): lambda m: m.push(m.read_number("B")),
    ord("M"): lambda m: m.push(m.read_number("H")),
    ord("L"): lambda m: m.push(int(m.read_line().removesuffix(b"L"))),
    0x8A: lambda m: m.push(int.from_bytes(m.read(m.read_number("B")), "little", signed=True)),
    0x8B: lambda m: m.push(int.from_bytes(m.read(m.read_number("i")), "little", signed=True)),
    ord("F"): lambda m: m.push(float(m.read_line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.read(8))[0]),
    ord("S"): lambda m: m.push(_python2_string(m)),
    ord("T"): lambda m: m.push(m.read(m.read_number("i")).decode("latin-1")),
    ord("U"): lambda m: m.push(m.read(m.read_number("B")).decode("latin-1")),
    ord("B"): lambda m: m.push(m.read(m.read_number("I"))),
    ord("C"): lambda m: m.push(m.read(m.read_number("B"))),
    0x8E: lambda m: m.push(m.read(m.read_number("Q"))),
    0x96: lambda m: m.push(m.read(m.read_number("Q"))),
    ord("V"): lambda m: m.push(codecs.raw_unicode_escape_decode(m.read_line())[0]),
    ord("X"): lambda m: m.push(_decode_utf8(m.read(m.read_number("I")))),
    0x8C: lambda m: m.push(_decode_utf8(m.read(m.read_number("B")))),
    0x8D: lambda m: m.push(_decode_utf8(m.read(m.read_number("Q")))),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.pop_to_mark()),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.pop_to_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): _dict,
    ord("s"): lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    0x8F: lambda m: m.push(PickleRecord("set")),
    0x90: _add_items,
    0x91: lambda m: m.push(PickleRecord("frozenset", tuple(m.pop_to_mark()))),
    ord("c"): lambda m: m.push_name(m.read_line().decode(), m.read_line().decode()),
    0x93: _stack_global,
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
    0x81: lambda m: m.new_object(False),
    0x92: lambda m: m.new_object(True),
    ord("i"): _instance,
    ord("o"): _object,
    ord("p"): lambda m: m.memoize(int(m.read_line())),
    ord("q"): lambda m: m.memoize(m.read_number("B")),
    ord("r"): lambda m: m.memoize(m.read_number("I")),
    0x94: lambda m: m.memoize(len(m.memo)),
    ord("g"): lambda m: m.push(m.memo[int(m.read_line())]),
    ord("h"): lambda m: m.push(m.memo[m.read_number("B")]),
    ord("j"): lambda m: m.push(m.memo[m.read_number("I")]),
    # A persistent id refers to something outside of the pickle; torch names a tensor's storage this way.
    ord("Q"): lambda m: m.push(PickleRecord("persistent", (m.stack.pop(),))),
}
