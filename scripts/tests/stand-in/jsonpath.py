"""As much of kubectl's JSONPath as deploy.sh uses. A test compares it with kubectl's own."""

import json
import re

TEMPLATE = re.compile(r"\{((?:\"[^\"]*\"|[^{}\"])*)\}|([^{}]+)")
STEP = re.compile(
    r"\.((?:\\.|[^.\[\]\\])+)"  # a name, in which dots are escaped
    r"|\[\*\]"
    r"|\[(\d+)\]"
    r"|\[\?\(@\.(\w+)==\"([^\"]*)\"\)\]"
)


def evaluate(template, document):
    nodes = [match.group(1, 2) for match in TEMPLATE.finditer(template)]
    if "".join(match.group() for match in TEMPLATE.finditer(template)) != template:
        raise ValueError(f"not understood: {template}")
    text, rest = run(nodes, document)
    if rest:
        raise ValueError(f"an end without a range: {template}")
    return text


def run(nodes, document):
    """The text of the nodes up to the end of their range, and the nodes behind that."""
    text = ""
    while nodes:
        (code, plain), nodes = nodes[0], nodes[1:]
        if plain is not None:
            text += plain
        elif code == "end":
            return text, nodes
        elif code.startswith('"'):
            text += json.loads(code)
        elif code.startswith("range "):
            behind = run(nodes, {})[1]
            text += "".join(run(nodes, one)[0] for one in find(code[6:], document))
            nodes = behind
        else:
            text += " ".join(show(one) for one in find(code, document))
    return text, nodes


def find(path, document):
    values, position = [document], 0
    while position < len(path):
        step = STEP.match(path, position)
        if step is None:
            raise ValueError(f"not understood: {path[position:]} of {path}")
        position = step.end()
        values = [found for value in values for found in take(step, value)]
    return values


def take(step, value):
    name, index, field, wanted = step.groups()
    if name is not None:
        name = re.sub(r"\\(.)", r"\1", name)
        return [value[name]] if isinstance(value, dict) and name in value else []
    if not isinstance(value, list):
        return []
    if index is not None:
        return value[int(index) : int(index) + 1]
    return value if field is None else [one for one in value if one.get(field) == wanted]


def show(value):
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
