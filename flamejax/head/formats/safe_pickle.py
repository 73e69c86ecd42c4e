"""Reading pickles as data: nothing that a pickle names is ever imported or called.

Python's own unpickler imports and calls whatever the file asks for, so an unknown file may run any program. Here every
name becomes a `Name` and every construction a `PickleRecord` record; a name that is not on the list below is refused. The few
records that head models consist of are turned into arrays by `flamejax.head.formats.pickle_arrays`.

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
"""Opcodes per pickle: a head model has some thousands, and a hostile file must not keep us busy."""

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

_ESCAPED = re.compile(rb"(?:[^\\]++|\\(?:x[0-9a-fA-F]{2}|[\\'\"nrt]))*+")
"""The escapes of Python 2's repr."""


@dataclasses.dataclass(frozen=True)
class Name:
    """An allowed name of the file, standing for the class or function it means: never that thing itself."""

    module: str
    name: str

    @property
    def kind(self) -> str:
        """The last word, which is what tells the allowed names apart."""
        return self.name


@dataclasses.dataclass(eq=False, repr=False)
class PickleRecord:
    """Something that the file wants constructed: what, from which arguments, and with which state.

    Neither compared nor printed: a small file can nest its parts so that either would take for ever.
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
      where: names the file in messages.
      start: position of the pickle's first byte.
      also: names "module name" that are allowed besides the list below. They too become `Name`s and `PickleRecord`s, and are
        never called; where they are given, items of a `PickleRecord` are left out.
      of: what the file should hold, for messages.

    Returns:
      The object, made of Python's basic types, `Name` and `PickleRecord`; and the position after it.

    Raises:
      HeadFileError: the pickle is damaged, too long, or names something that is not on the list.
    """
    machine = _Machine(data, where, start, also, of)
    try:
        return machine.run(), machine.at
    except HeadFileError:
        raise
    # Each of these is a damaged opcode: a stack too short, a text that is no number, an unhashable key.
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise HeadFileError(
            f"{where}: the pickle is damaged near byte {machine.at} ({type(error).__name__}). Fetch the file again."
        ) from error
    except (MemoryError, RecursionError) as error:
        raise HeadFileError(f"{where}: the pickle asks for more memory than there is.") from error


class _Machine:
    """The stack machine of a pickle."""

    def __init__(self, data: bytes, where: str, start: int, also: re.Pattern[str] | None, of: str) -> None:
        self.data, self.where, self.at = data, where, start
        self.also, self.of = also, of
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = MAX_STEPS

    def run(self) -> Any:
        data = self.data
        while self.left > 0:
            self.left -= 1
            if self.at >= len(data):
                self.fail("ends in the middle")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            action = _ACTIONS.get(code)
            if action is None:
                self.fail(f"uses opcode 0x{code:02x}, which no {self.of} needs")
            action(self)
        raise HeadFileError(f"{self.where}: the pickle has more than {MAX_STEPS} steps: it is no {self.of}.")

    def fail(self, what: str) -> NoReturn:
        raise HeadFileError(f"{self.where}: the pickle {what} (byte {self.at}). Fetch the file again.")

    # What opcodes read.

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            self.fail(f"is cut off: {count} bytes are announced and {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            self.fail("ends in the middle")
        text, self.at = self.data[self.at : end], end + 1
        # Files that went through a Windows text mode have carriage returns.
        return text.removesuffix(b"\r")

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # What opcodes do.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if self.also is not None and type(target) is PickleRecord:
            return
        if type(target) is not dict or len(items) % 2:
            self.fail("sets items of what is no dictionary")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if self.also is not None and type(target) is PickleRecord:
            return
        if type(target) is not list:
            self.fail("appends to what is no list")
        target.extend(items)

    def look_up(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.fail("names something that is no text")
        full = f"{module} {name}"
        if not (_ALLOWED.fullmatch(full) or (self.also is not None and self.also.fullmatch(full))):
            raise HeadFileError(
                f"{self.where}: the pickle names {module[:80]}.{name[:80]}, which no {self.of} needs. It was not "
                "opened: such a file can run programs. Fetch it again from where it is published."
            )
        self.push(Name(module, name))

    def construct(self, what: Any, args: Any) -> None:
        if not isinstance(what, Name) or type(args) is not tuple:
            self.fail("calls what is no allowed name")
        kind = what.kind
        if kind == "_reconstructor":
            if not (args and isinstance(args[0], Name)):
                self.fail("constructs something without a class")
            kind, args = args[0].kind, ()
        if kind == "OrderedDict":
            if args and not (len(args) == 1 and type(args[0]) is list):
                self.fail("has a dictionary of unknown form")
            self.left -= len(args[0]) if args else 0  # One list can be made into many dictionaries.
            self.push({_key(key): value for key, value in (args[0] if args else [])})
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
            return  # An OrderedDict's attributes: none that we need.
        if type(target) is not PickleRecord or target.state is not None:
            self.fail("gives a state to what takes none")
        target.state = state


def _key(key: Any) -> Any:
    """Keys of dictionaries. Nested tuples could take for ever to hash, so there are none."""
    if not isinstance(key, str | bytes | int | float | bool | PickleRecord | Name | None):
        raise TypeError("key")
    return key


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _old_string(machine: _Machine) -> str:
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        machine.fail("has a string without quotes")
    if not _ESCAPED.fullmatch(line, 1, len(line) - 1):
        machine.fail("has a string with escapes that Python 2 did not write")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _old_integer(machine: _Machine) -> int | bool:
    line = machine.line()
    return line == b"01" if line in (b"00", b"01") else int(line)


def _mark(machine: _Machine) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _tuple(count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        items = [machine.stack.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return action


def _pairs(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.push({})
    machine.set_items(items)


def _stack_global(machine: _Machine) -> None:
    name = machine.stack.pop()
    machine.look_up(machine.stack.pop(), name)


def _object(machine: _Machine) -> None:
    what, *args = machine.since_mark()
    machine.construct(what, tuple(args))


def _instance(machine: _Machine) -> None:
    module, name = machine.line().decode(), machine.line().decode()
    args = tuple(machine.since_mark())
    machine.look_up(module, name)
    machine.construct(machine.stack.pop(), args)


def _add_items(machine: _Machine) -> None:
    items = machine.since_mark()
    if not isinstance(machine.stack[-1], PickleRecord) or machine.stack[-1].kind != "set":
        machine.fail("adds to what is no set")
    del items  # Sets hold chumpy's bookkeeping, which we do not need.


_ACTIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.number("B") > 5 and m.fail("has a protocol newer than 5"),
    0x95: lambda m: m.number("Q"),  # FRAME: a hint for reading ahead
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda m: m.since_mark(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): lambda m: m.push(_old_integer(m)),
    ord("J"): lambda m: m.push(m.number("i")),
    ord("K"): lambda m: m.push(m.number("B")),
    ord("M"): lambda m: m.push(m.number("H")),
    ord("L"): lambda m: m.push(int(m.line().removesuffix(b"L"))),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    0x8B: lambda m: m.push(int.from_bytes(m.take(m.number("i")), "little", signed=True)),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("S"): lambda m: m.push(_old_string(m)),
    ord("T"): lambda m: m.push(m.take(m.number("i")).decode("latin-1")),
    ord("U"): lambda m: m.push(m.take(m.number("B")).decode("latin-1")),
    ord("B"): lambda m: m.push(m.take(m.number("I"))),
    ord("C"): lambda m: m.push(m.take(m.number("B"))),
    0x8E: lambda m: m.push(m.take(m.number("Q"))),
    0x96: lambda m: m.push(m.take(m.number("Q"))),
    ord("V"): lambda m: m.push(codecs.raw_unicode_escape_decode(m.line())[0]),
    ord("X"): lambda m: m.push(_text(m.take(m.number("I")))),
    0x8C: lambda m: m.push(_text(m.take(m.number("B")))),
    0x8D: lambda m: m.push(_text(m.take(m.number("Q")))),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.since_mark()),
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): _pairs,
    ord("s"): lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x8F: lambda m: m.push(PickleRecord("set")),
    0x90: _add_items,
    0x91: lambda m: m.push(PickleRecord("frozenset", tuple(m.since_mark()))),
    ord("c"): lambda m: m.look_up(m.line().decode(), m.line().decode()),
    0x93: _stack_global,
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
    0x81: lambda m: m.new_object(False),
    0x92: lambda m: m.new_object(True),
    ord("i"): _instance,
    ord("o"): _object,
    ord("p"): lambda m: m.put(int(m.line())),
    ord("q"): lambda m: m.put(m.number("B")),
    ord("r"): lambda m: m.put(m.number("I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number("B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("I")]),
    # A persistent id refers to something outside of the pickle: torch's way to name a tensor's storage.
    ord("Q"): lambda m: m.push(PickleRecord("persistent", (m.stack.pop(),))),
}
