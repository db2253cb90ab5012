"""Links, anchors and paths: what is pointed at must be there."""
import re
import urllib.parse

from .project import EVERYWHERE

PATH = re.compile(r"^\.?[\w.-]+(?:/[\w.*-]+)+/?$|^[\w.-]+\.md$")


def links(project, document):
    """Relative links lead to a file of the project, and their anchors to a heading of it."""
    for line, target in document.links:
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        aim = (document.path.parent / path).resolve() if path else document.path
        if not aim.is_relative_to(project.root):
            yield line, f"{target} leads out of the project"
        elif not aim.exists():
            yield line, f"{target}: there is no such file"
        elif anchor and aim.suffix == ".md" and anchor not in project.document(aim).anchors:
            yield line, f"{target}: {aim.name} has no heading with that anchor"


def paths(project, document):
    """What stands in backticks and looks like a path of the project is one."""
    tops = project.top_level()
    for line, text in document.spans:
        if not PATH.match(text):
            continue
        top = text.lstrip("./").split("/")[0]
        if "/" in text and (top not in tops or top in EVERYWHERE):
            continue
        bases = [project.root, document.path.parent, project.root / "docs"]
        if not any(found for base in bases for found in base.glob(text.rstrip("/"))):
            yield line, f"`{text}`: there is no such file"
