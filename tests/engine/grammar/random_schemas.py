"""Random JSON schemas of the kinds that clients send."""

import random
from collections.abc import Callable
from typing import Any

Make = Callable[[random.Random, int], dict[str, Any]]


def random_schema(dice: random.Random, depth: int = 3) -> dict[str, Any]:
    kinds: list[Make] = [_text, _number, _integer, _boolean, _nothing, _choice]
    if depth:
        kinds += [_object, _object, _array, _either]
    return dice.choice(kinds)(dice, depth)


def _text(dice: random.Random, _depth: int) -> dict[str, Any]:
    least = dice.randrange(4)
    return dice.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": least, "maxLength": least + dice.randrange(6)},
            {"type": "string", "pattern": "^[a-f0-9]{4}(-[A-Z]+)?$"},
            {"type": "string", "format": "date"},
            {"type": "string", "description": 'a text, "quoted"', "title": "T"},
        ]
    )


def _number(dice: random.Random, _depth: int) -> dict[str, Any]:
    least = dice.randrange(-50, 50)
    return dice.choice([{"type": "number"}, {"type": "number", "minimum": least, "exclusiveMaximum": least + 10}])


def _integer(dice: random.Random, _depth: int) -> dict[str, Any]:
    least = dice.randrange(-50, 50)
    return dice.choice([{"type": "integer"}, {"type": "integer", "minimum": least, "maximum": least + 10}])


def _boolean(_dice: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _nothing(_dice: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "null"}


def _choice(dice: random.Random, _depth: int) -> dict[str, Any]:
    return {"enum": dice.sample(["red", "grün", "a\nb", 3, -0.5, None, True, ["x"], {"k": 1}], dice.randrange(1, 5))}


def _object(dice: random.Random, depth: int) -> dict[str, Any]:
    names = dice.sample(["name", "age", "größe", "tags", "a b", 'q"', "x", "items"], dice.randrange(5))
    return {
        "type": "object",
        "properties": {name: random_schema(dice, depth - 1) for name in names},
        "required": [name for name in names if dice.random() < 0.7],
        "additionalProperties": dice.choice([False, False, random_schema(dice, 0)]),
    }


def _array(dice: random.Random, depth: int) -> dict[str, Any]:
    least = dice.randrange(3)
    return {"type": "array", "items": random_schema(dice, depth - 1), "minItems": least, "maxItems": least + dice.randrange(4)}


def _either(dice: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(dice, depth - 1) for _ in range(dice.randrange(1, 4))]}
