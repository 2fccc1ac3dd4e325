#!/usr/bin/env python3
"""Validates the dashboards against Grafana's dashboard schema: the types of PyPI's grafana-foundation-sdk, which Grafana generates from
that schema. `make test` has it installed in target/grafana-sdk by scripts/install-deps.sh.

  target/grafana-sdk/bin/python dashboards/check-schema.py [FILE...]

Each file is read into those types, with the panels' own options, and has to come out again with every key and every value it had: a key
that the schema does not know would be lost. Then each value is held against the type that the schema gives it.
"""

import enum
import json
import sys
import types
import typing
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# The SDK's types lag behind what Grafana's own code documents for annotations of Prometheus sources.
# Each is a key of that data source's query, which the schema leaves open.
OPEN = {"annotations.list": {"titleFormat", "textFormat", "step", "useValueForTime"}}


def lost(before, after, path=""):
    """What `before` has and `after` has not."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            where = f"{path}.{key}".lstrip(".")
            if key not in after:
                if value is not None and key not in OPEN.get(path.partition("[")[0], ()):
                    yield f"{where}: the schema does not know it"
            else:
                yield from lost(value, after[key], where)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(after)} of {len(before)} are left"
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def as_json(thing):
    return json.loads(json.dumps(thing, cls=JSONEncoder))


def fits(value, kind):
    """Whether a value is of a type; those of the SDK's classes are looked into by `wrong`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any or kind is object:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, arguments[1]) for one in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        # The SDK leaves some of them as they came.
        return not any(lost(value, as_json(kind.from_json(value))))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return isinstance(value, kind) or value in [one.value for one in kind]
    return isinstance(value, kind) if isinstance(kind, type) else True


def wrong(thing, path):
    """Attributes whose values are not of the type that the schema gives them."""
    if isinstance(thing, list):
        for index, one in enumerate(thing):
            yield from wrong(one, f"{path}[{index}]")
    elif isinstance(thing, dict):
        for key, one in thing.items():
            yield from wrong(one, f"{path}.{key}")
    elif type(thing).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(thing, enum.Enum):
        for name, kind in typing.get_type_hints(type(thing)).items():
            value = getattr(thing, name, None)
            if not fits(value, kind) and not (value is None and fits(None, typing.Optional[kind])):
                yield f"{path}.{name}: {value!r} is not of type {kind}"
            yield from wrong(value, f"{path}.{name}")


def main():
    register_default_plugins()
    files = [Path(name) for name in sys.argv[1:]] or sorted((Path(__file__).resolve().parent / "grafana").glob("*.json"))
    problems = []
    for path in files:
        before = json.loads(path.read_text())
        dashboard = Dashboard.from_json(before)
        found = [*lost(before, as_json(dashboard)), *wrong(dashboard, "")]
        problems += [f"{path.name}: {problem}" for problem in found]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(files)} dashboards are as the schema says")


if __name__ == "__main__":
    main()
