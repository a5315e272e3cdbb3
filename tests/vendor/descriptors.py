"""The vendor's own message classes against ours, for every message that both know.

    descriptors.py RECODE_BINARY FIELDS_TSV

Builds instances with the vendor's classes, lets RECODE decode and encode them, and parses the answer
with the vendor's class again. What is equal then was understood both ways. The table FIELDS_TSV is our
schema (a test of ours holds the bindings against it): it says which fields are shared, and what an
absent one reads as. Prints what is not shared, a line a kind of instance, and `N passed, M failed`;
exits 0 only if nothing failed and no less is shared than was.
"""

import csv
import subprocess
import sys
from collections import Counter

from ctrader_open_api import Protobuf
from ctrader_open_api.messages import (
    OpenApiCommonMessages_pb2,
    OpenApiCommonModelMessages_pb2,
    OpenApiMessages_pb2,
    OpenApiModelMessages_pb2,
)
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError

# What the pinned release shares with our schema: less would mean that less is compared.
MESSAGES_SHARED, FIELDS_SHARED, TYPED_PAYLOADS = 119, 562, 91

# All of them are varints on the wire: what fits both types is the same to both.
INTEGERS = {
    "bool": (0, 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
TYPES = {
    Field.TYPE_INT32: "int32",
    Field.TYPE_UINT32: "uint32",
    Field.TYPE_INT64: "int64",
    Field.TYPE_UINT64: "uint64",
    Field.TYPE_DOUBLE: "double",
    Field.TYPE_BOOL: "bool",
    Field.TYPE_STRING: "string",
    Field.TYPE_BYTES: "bytes",
}
LABELS = {
    Field.LABEL_OPTIONAL: "optional",
    Field.LABEL_REQUIRED: "required",
    Field.LABEL_REPEATED: "repeated",
}
# Field 15000, which neither side has, as a number and as text.
UNKNOWN = bytes([0xC0, 0xA9, 0x07, 0x2A]) + bytes([0xC2, 0xA9, 0x07, 0x02]) + b"hi"

passed, failed = Counter(), Counter()


def check(family, what, holds, detail=""):
    if holds:
        passed[family] += 1
    else:
        failed[family] += 1
        print(f"FAILED  {family}: {what} {detail}")


def vendors_classes():
    files = (
        OpenApiCommonModelMessages_pb2,
        OpenApiCommonMessages_pb2,
        OpenApiModelMessages_pb2,
        OpenApiMessages_pb2,
    )
    return {name: getattr(file, name) for file in files for name in file.DESCRIPTOR.message_types_by_name}


def our_fields(path):
    """Message, field: the row of the table. And enum: its values."""
    messages, enums = {}, {}
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["status"] != "current":
                continue
            if row["kind"] == "enum":
                enums.setdefault(row["name"], {})[row["member"]] = int(row["number"])
            else:
                messages.setdefault(row["name"], {})[row["member"]] = row
    return messages, enums


def type_of(field):
    return TYPES.get(field.type) or (field.message_type or field.enum_type).name


def default_of(field):
    if not field.has_default_value:
        return ""
    if field.enum_type:
        return field.enum_type.values_by_number[field.default_value].name
    return str(field.default_value).lower() if field.type == Field.TYPE_BOOL else str(field.default_value)


def is_packed(field):
    """None of ours is."""
    return field.GetOptions().packed


class Shared:
    """What both sides know of the messages."""

    def __init__(self, classes, messages, enums):
        self.classes = {name: classes[name] for name in sorted(classes.keys() & messages.keys())}
        self.messages = messages
        self.enums = enums
        self.fields = {
            name: [field for field in kind.DESCRIPTOR.fields if field.name in messages[name]]
            for name, kind in self.classes.items()
        }

    def row(self, field):
        return self.messages[field.containing_type.name][field.name]

    def is_required(self, field):
        """By either side: ours always writes what it holds as required."""
        return field.label == Field.LABEL_REQUIRED or self.row(field)["label"] == "required"

    def integers(self, field):
        """The range that both sides have room for."""
        ranges = [INTEGERS[type_of(field)], INTEGERS[self.row(field)["type"]]]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    def values(self, field):
        """The numbers of an enum that both sides name."""
        ours = self.enums[type_of(field)]
        return [value.number for value in field.enum_type.values if ours.get(value.name) == value.number]


def scalar(shared, field, style, salt):
    """A value in the style `distinct`, `lowest` or `highest`; `salt` makes the distinct ones so."""
    if field.type == Field.TYPE_ENUM:
        values = shared.values(field)
        return {"distinct": values[salt % len(values)], "lowest": values[0], "highest": values[-1]}[style]
    if field.type == Field.TYPE_BOOL:
        return style != "lowest"
    if field.type == Field.TYPE_DOUBLE:
        return {"distinct": salt + 1.0712345, "lowest": -1.7976931348623157e308, "highest": 5e-324}[style]
    if field.type in (Field.TYPE_STRING, Field.TYPE_BYTES):
        text = {
            "distinct": f"{field.name} {salt} \u00e4\u20ac\U0001f4b6",
            "lowest": "",
            "highest": "\U0010ffff\0" * 300,
        }[style]
        return text if field.type == Field.TYPE_STRING else text.encode() + b"\xff\x00"
    low, high = shared.integers(field)
    distinct = -(1000 + salt) if low < 0 and salt % 3 == 0 else 1000 + salt
    return {"distinct": max(low, min(high, distinct)), "lowest": low, "highest": high}[style]


def fill(shared, message, style, repeated, salts, wanted=lambda _field: True):
    """Sets every shared field that is required or wanted; repeated ones get so many elements."""
    for field in shared.fields[message.DESCRIPTOR.name]:
        if not (shared.is_required(field) or wanted(field)):
            continue
        if field.label == Field.LABEL_REPEATED:
            many = getattr(message, field.name)
            for _ in range(repeated):
                if field.message_type:
                    fill(shared, many.add(), style, repeated, salts, wanted)
                else:
                    many.append(scalar(shared, field, style, next(salts)))
        elif field.message_type:
            nested = getattr(message, field.name)
            nested.SetInParent()
            fill(shared, nested, style, repeated, salts, wanted)
        else:
            setattr(message, field.name, scalar(shared, field, style, next(salts)))
    return message


def instances(shared, kind):
    """Instances of a message, each with the name of what it tries."""
    new = lambda style, repeated, wanted=lambda _field: True: fill(
        shared, kind(), style, repeated, iter(range(1, 1_000_000)), wanted
    )
    yield "required fields only", new("distinct", 0, lambda _field: False)
    yield "every field, distinct", new("distinct", 3)
    yield "every field, lowest", new("lowest", 1)
    yield "every field, highest", new("highest", 0)
    for chosen in shared.fields[kind.DESCRIPTOR.name]:
        alone = lambda field, chosen=chosen: field is chosen
        if not shared.is_required(chosen):
            yield "one field at a time", new("distinct", 1, alone)
        if chosen.enum_type:
            for number in shared.values(chosen):
                message = new("distinct", 0, lambda _field: False)
                if chosen.label == Field.LABEL_REPEATED:
                    getattr(message, chosen.name).extend([number, shared.values(chosen)[0], number])
                else:
                    setattr(message, chosen.name, number)
                yield "each enum value", message


def compare_schemas(shared, classes):
    """Numbers, types and defaults; lists what differs and may."""
    for name in sorted(classes.keys() ^ shared.messages.keys()):
        print(f"not shared: {name}")
    for name, kind in shared.classes.items():
        theirs, ours = {field.name for field in kind.DESCRIPTOR.fields}, set(shared.messages[name])
        for field in sorted(theirs ^ ours):
            print(f"not shared: {name}.{field} ({'vendor' if field in theirs else 'ours'} only)")
        for field in shared.fields[name]:
            row, member = shared.row(field), f"{name}.{field.name}"
            check("field numbers", member, field.number == int(row["number"]), (field.number, row["number"]))
            varints = type_of(field) in INTEGERS and row["type"] in INTEGERS
            check("field types", member, varints or type_of(field) == row["type"], (type_of(field), row["type"]))
            if type_of(field) != row["type"] or LABELS[field.label] != row["label"]:
                ours = f"{row['label']} {row['type']}"
                print(f"differs: {member} is {LABELS[field.label]} {type_of(field)}, ours {ours}")
            if is_packed(field):
                print(f"differs: {member} is packed, ours is not; either side reads both")
            repeated = [LABELS[field.label], row["label"]].count("repeated")
            check("one or many", member, repeated in (0, 2))
            check("defaults", member, default_of(field) == row["default"], (default_of(field), row["default"]))
    for name, values in sorted(shared.enums.items()):
        theirs = vendors_enum(name)
        for member in sorted(theirs.keys() ^ values.keys()):
            print(f"not shared: {name}.{member} ({'vendor' if member in theirs else 'ours'} only)")
        for member in sorted(theirs.keys() & values.keys()):
            check("enum numbers", f"{name}.{member}", theirs[member] == values[member])


def vendors_enum(name):
    for file in (OpenApiCommonModelMessages_pb2, OpenApiModelMessages_pb2):
        if name in file.DESCRIPTOR.enum_types_by_name:
            return {value.name: value.number for value in file.DESCRIPTOR.enum_types_by_name[name].values}
    return {}


def recode(binary, questions):
    lines = "".join(f"{name} {sent.hex()}\n" for name, sent in questions)
    done = subprocess.run([binary], input=lines, capture_output=True, text=True, timeout=60, check=True)
    answers = done.stdout.splitlines()
    assert len(answers) == len(questions), f"{len(answers)} answers to {len(questions)} questions"
    return answers


def compare_bytes(shared, binary):
    """Every instance through our types, plain, with a stranger's field, and in an envelope."""
    originals, questions = [], []
    envelope = shared.classes["ProtoMessage"]
    for name, kind in shared.classes.items():
        for family, message in instances(shared, kind):
            plain = message.SerializeToString()
            originals.append((family, message))
            questions.append((name, plain))
            originals.append(("a field that nobody knows", message))
            questions.append((name, plain + UNKNOWN))
            if "payloadType" in kind.DESCRIPTOR.fields_by_name and kind is not envelope:
                wrapped = envelope(payloadType=kind().payloadType, payload=plain, clientMsgId=f"\u00e4-{len(plain)}")
                originals.append(("the envelope", wrapped))
                questions.append(("ProtoMessage", wrapped.SerializeToString()))
    for (family, message), (name, _), answer in zip(originals, questions, recode(binary, questions)):
        if answer.startswith("error"):
            check(family, name, False, answer)
            continue
        bytes_of_ours = bytes.fromhex(answer)
        try:
            parsed = type(message).FromString(bytes_of_ours)
        except DecodeError as error:
            check(family, name, False, f"{error}: {answer}")
            continue
        equal = parsed == message and all(
            getattr(parsed, field.name) == getattr(message, field.name) for field in message.DESCRIPTOR.fields
        )
        check(family, name, equal, f"\n  sent {message!r}\n  came {parsed!r}")
        # Both write fields in the order of their numbers: nothing was added, nothing doubled.
        if not any(is_packed(field) for field in message.DESCRIPTOR.fields):
            check("the same bytes", name, bytes_of_ours == message.SerializeToString(), answer)


def compare_payload_types(shared):
    """The vendor's client finds the class of an envelope by this map; ours are the table's numbers."""
    types = Protobuf.populate()
    enumerated = lambda kind: kind.DESCRIPTOR.fields_by_name["payloadType"].enum_type
    named = {kind.__name__: number for number, kind in types.items() if enumerated(kind)}
    for name, number in named.items():
        row = shared.messages[name]["payloadType"]
        check("payload types", name, shared.enums[row["type"]][row["default"]] == number, number)
    return len(named)


def main():
    binary, table = sys.argv[1:]
    classes = vendors_classes()
    shared = Shared(classes, *our_fields(table))
    compare_schemas(shared, classes)
    typed = compare_payload_types(shared)
    compare_bytes(shared, binary)
    counts = len(shared.classes), sum(map(len, shared.fields.values())), typed
    print(f"shared: {counts[0]} messages, {counts[1]} fields, {counts[2]} payload types")
    enough = all(now >= then for now, then in zip(counts, (MESSAGES_SHARED, FIELDS_SHARED, TYPED_PAYLOADS)))
    check("as much is shared as was", counts, enough)
    for family in sorted(passed | failed):
        word, of = "FAILED" if failed[family] else "ok", passed[family] + failed[family]
        print(f"{word:7} {family}: {passed[family]} of {of}")
    print(f"{passed.total()} passed, {failed.total()} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
