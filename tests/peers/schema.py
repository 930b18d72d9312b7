"""Judges YAML files by a JSON Schema: `schema.py SCHEMA FILE...` prints a line for each file, `FILE ok` or `FILE wrong PLACE: WHY`."""

import json
import sys

import jsonschema
import yaml


class Loader(yaml.SafeLoader):
    """Of duplicate keys and dates it knows as much as wellhead does: text stays text."""


for first in "0123456789":
    Loader.yaml_implicit_resolvers[first] = [
        (tag, pattern) for tag, pattern in Loader.yaml_implicit_resolvers.get(first, []) if tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
# YAML 1.2: yes, no, on and off are words, and 12:30 is no number.
for first, resolvers in list(Loader.yaml_implicit_resolvers.items()):
    Loader.yaml_implicit_resolvers[first] = [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
import re

Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def with_text_keys(node):
    """Keys of JSON are text."""
    if isinstance(node, dict):
        return {str(key): with_text_keys(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_text_keys(item) for item in node]
    return node


def main():
    with open(sys.argv[1]) as file:
        schema = json.load(file)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    for path in sys.argv[2:]:
        try:
            with open(path, encoding="utf-8") as file:
                document = with_text_keys(yaml.load(file, Loader))
        except yaml.YAMLError as error:
            print(path, "wrong", "not YAML:", str(error).replace("\n", " "))
            continue
        errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
        if errors:
            place = "/".join(map(str, errors[0].absolute_path))
            print(path, "wrong", f"{place}:", errors[0].message.replace("\n", " ")[:200])
        else:
            print(path, "ok")


main()
