"""The English of docstrings, comments, messages and pages: rules that a regular expression can hold."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbflows

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(file for folder in ("nbflows", "benchmarks", "tools") for file in (ROOT / folder).rglob("*.py"))
PAGES = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "data/*.md",
        "notebooks/*.md",
        "saved_models/*.md",
        ".github/*.md",
        ".github/*/*.yml",
    )
    for file in ROOT.glob(pattern)
)

# What is wrong, what to write, and an example that must be found.
RULES = {
    "begins with Of": (r"(?:^|[.!?:;(] |- )(?:Of|Not of) ", "name the thing", "Of the outputs, weighted."),
    "is no": (r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)", "is not a", "it is no layer"),
    "so many": (r"\b[Ss]o many\b(?! that)", "the number", "so many terms"),
    "goes on": (r"half (?:that )?goes on|goes? on alone", "the continuing half", "the half that goes on"),
    "leaves": (r"half (?:that )?leaves|half that left|leaves? early", "the exiting half", "the half that leaves"),
    "stands": (r"\bstands? (?:beside|in)\b(?! for)", "is given with, is listed in", "M stands beside it"),
    "mind": (r"\b[Mm]ind (?:the|what)\b", "note that", "Mind the axes"),
    "half way": (r"\bhalf way\b", "halfway", "half way up"),
    "compare": (r"\b(?:do|does) not compare\b(?! the)|\bcompare only\b", "are not comparable", "they compare only if"),
    "the way out": (r"\bthe way out\b", "the fix", "with the way out"),
    "chance": (r"(?<!by )(?<!on )\b[Cc]hances?\b", "probability", "the chance that"),
    "hangs on": (r"\bhangs? on\b", "depends on", "it hangs on the seed"),
    "lies in": (r"\blies? in\b", "is in, is stored in", "it lies in the folder"),
    "a thing to measure": (r"\bis a thing to\b|\bby law\b", "measure it; always", "that is a thing to measure"),
    "anew": (r"\banew\b|\blearn(?:ed|t|s)? by heart\b", "again; memorise", "made anew"),
}
# A docstring's first sentence has a subject or a verb.
FIRST = re.compile(r"(?:Of|What|Not|So|That|Those|As|By|To|In|At|From|With|Where|When|If|Whatever)\b")
ARGUMENT = re.compile(r"^ +[\w, *]+: of ", re.MULTILINE)


def texts_of_code(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yields line, text and whether it is a docstring, for docstrings, comments and other strings."""
    tree = ast.parse(source)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node, clean=False) is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, node in docstrings
    block, start, last = [], 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if block and line != last + 1:
                yield start, " ".join(block), False
                block = []
            start, last = (start if block else line), line
            block.append(token.string.lstrip("# "))
    if block:
        yield start, " ".join(block), False


def faults(text: str, docstring: bool = False) -> list[str]:
    """Names the rules that a text breaks."""
    flat = " ".join(re.sub(r"```.*?```|``.*?``|`[^`\n]*`", "`code`", text, flags=re.DOTALL).split())
    found = [f"{name!r} ({advice})" for name, (pattern, advice, _) in RULES.items() if re.search(pattern, flat)]
    if docstring and FIRST.match(flat):
        found.append(f"first word {flat.split()[0]!r} (begin with a verb or a noun)")
    if docstring and ARGUMENT.search(text):
        found.append("an argument that begins with 'of' (name the thing)")
    return found


@pytest.mark.parametrize("name", RULES)
def test_each_rule_finds_its_example(name):
    assert [fault.split("'")[1] for fault in faults(RULES[name][2])] == [name]


def contents(files: list[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def test_code_keeps_the_rules():
    found = []
    for name, source in contents(CODE):
        for line, text, docstring in texts_of_code(source):
            found += [f"{name}:{line}: {fault}" for fault in faults(text, docstring)]
    assert not found, "\n".join(found)


def test_pages_keep_the_rules():
    found = []
    for name, page in contents(PAGES):
        for paragraph in re.split(r"\n(?:\s*\n|(?=[-|#] ?))", page):
            found += [f"{name}: {fault}: {paragraph[:60]!r}" for fault in faults(paragraph)]
    assert not found, "\n".join(found)


def test_files_and_modules_that_texts_name_are_there():
    found = []
    texts = [(name, text) for name, source in contents(CODE) for _, text, _ in texts_of_code(source)]
    # The changelog also names what has moved since.
    for name, text in [*texts, *((name, page) for name, page in contents(PAGES) if name != "CHANGELOG.md")]:
        for path in re.findall(r"\b(?:nbflows|tools|tests|benchmarks|docs)/[\w/]+\.(?:py|md|ipynb|png)\b", text):
            found += [f"{name}: {path}"] if not (ROOT / path).exists() else []
        for module in re.findall(r"\bnbflows\.([a-z]\w*)", text):
            paths = (ROOT / "nbflows" / module, ROOT / "nbflows" / f"{module}.py")
            if not (hasattr(nbflows, module) or any(path.exists() for path in paths)):
                found.append(f"{name}: nbflows.{module}")
    assert not found, "\n".join(found)
