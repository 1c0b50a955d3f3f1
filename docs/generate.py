"""Write the reference pages from the code; with `--check`, write nothing and say which pages are out of date.

The pages do not depend on the Python that runs this, nor on the machine.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import generate_sites
from markup import HEAD, NO_USER, cell

import envbuilder
from envbuilder import catalog, errors, recipe, site
from envbuilder.causes import AREAS, Cause
from envbuilder.checks import CHECKS
from envbuilder.checks.base import Check
from envbuilder.cli.parser import _parser
from envbuilder.document import to_json
from envbuilder.evidence import RUNGS
from envbuilder.shape import ListOf, MapOf, Shape, Switch, Table, Whole, Words

HERE = Path(__file__).parent / "reference"
PACKAGE = Path(envbuilder.__file__).parent


def pages() -> dict[str, str]:
    """The generated pages, by path."""
    return {
        "recipe.md": _format("Recipes", "recipe", recipe.shape(), _templates()),
        "recipe.schema.json": to_json(recipe.json_schema()),
        "site.md": _format("Sites", "site", site.shape(), ""),
        "site.schema.json": to_json(site.json_schema()),
        "shipped.md": _shipped(),
        "checks.md": _checks(),
        "commands.md": _commands(),
        "exit-codes.md": _exit_codes(),
        "causes.md": _causes(),
        "modules.md": _modules(),
        **generate_sites.pages(),
    }


# Formats


def _templates() -> str:
    return (
        "Its texts may hold `{{ expressions }}` over `recipe`, `variant`, `site`, `partition`, `python` and `mpi`: names, "
        "attributes, comparisons, `a if b else c` and the filters `default`, `join`, `lower`, `upper`; no calls."
    )


def _format(title: str, kind: str, shape: Shape, more: str) -> str:
    intro = f"{shape.doc} A YAML file, read strictly: plain data only, unknown and repeated keys are mistakes. {more}".strip()
    schema = (
        f"The same as a JSON Schema, for editors: [{kind}.schema.json]({kind}.schema.json), or "
        f"`envbuilder schema {kind}`. `envbuilder lint FILE` checks files."
    )
    forms = dict(_forms(shape, ""))
    listed = [f"- `{path}`: `` {form} ``" for path, form in forms.items()]
    about = "A text must match the whole of its form (a regular expression), unless it holds an expression.\n"
    return "\n".join(
        [HEAD + f"# {title}\n", f"{intro}\n", f"{schema}\n", *_table(shape, ""), "## Forms\n", about, *listed, ""]
    )


def _table(shape: Shape, path: str) -> Iterator[str]:
    if isinstance(shape, Table):
        if path:
            yield f"## `{path}`\n\n{shape.doc}\n"
        yield "| key | value | required | meaning |\n|---|---|---|---|"
        for key, field in shape.fields.items():
            must = "yes" if field.required else ""
            yield f"| `{key}` | {_kind(field.shape)} | {must} | {cell(field.shape.doc)} |"
        yield ""
    for below, inner in _children(shape, path):
        yield from _table(inner, below)


def _children(shape: Shape, path: str) -> Iterator[tuple[str, Shape]]:
    match shape:
        case Table(fields=fields):
            yield from ((f"{path}.{key}" if path else key, field.shape) for key, field in fields.items())
        case ListOf(of=of):
            yield f"{path}[]", of
        case MapOf(of=of):
            yield f"{path}.NAME", of
        case _:
            return


def _forms(shape: Shape, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(shape, Words) and shape.pattern is not None:
        yield path, shape.pattern
    if isinstance(shape, MapOf):
        yield f"NAME in {path}", shape.keys
    for below, inner in _children(shape, path):
        yield from _forms(inner, below)


def _kind(shape: Shape) -> str:
    match shape:
        case Words():
            return _text(shape)
        case Whole(least=least, most=most):
            return f"whole number, {least} to {most}" if least < most else f"the number {least}"
        case Switch():
            return "`true` or `false`"
        case ListOf(of=of):
            return "list of mappings" if isinstance(of, Table) else f"list of {_kind(of)}"
        case MapOf(of=of):
            return f"mapping of names to {'mappings' if isinstance(of, Table) else _kind(of)}"
        case _:
            return "mapping"


def _text(shape: Words) -> str:
    if shape.choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in shape.choices)
    return f"text, such as `{cell(shape.example)}`" if shape.example else "text"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# Shipped recipes


def _shipped() -> str:
    about = "Layers are shown with their bases merged in. Where each fits: [shipped sites](sites/index.md).\n"
    lines = [HEAD + "# Shipped recipes\n", about]
    for origin in catalog.recipes(NO_USER):
        lines += _one_recipe(catalog.merged(origin, NO_USER)[0])
    return "\n".join(lines)


def _one_recipe(found: recipe.Recipe) -> Iterator[str]:
    yield f"## Recipe {found.name}\n\n{found.summary}.\n\n{found.description.strip()}\n"
    if found.extends:
        yield f"- a layer on: `{found.extends}`"
    yield f"- versions: {', '.join(f'{row.version} (Python `{row.python}`)' for row in found.variants)}"
    yield f"- features: {', '.join(f'`{feature}`' for feature in found.features)}"
    yield f"- packages: {', '.join(f'`{package}`' for package in found.packages)}"
    yield from (f"- compiled here: `{name}`, because {source.why}" for name, source in found.sources.items())
    for one in found.environment:
        yield f"- at run time: {f'unset `{one.unset}`' if one.unset else f'`{one.set}={one.to}`'}, because {one.why}"
    yield from (f"- data: `{one.variable}`, {one.why}" for one in found.data)
    yield from (f"- cannot work where `{one.when}`: {one.why}" for one in found.infeasible)
    yield ""


# Checks


def _checks() -> str:
    lines = [HEAD + "# Checks, one by one\n", "What checks are for, and examples: [Checks](../checks.md).\n"]
    for rung, name in RUNGS.items():
        lines.append(f"## Rung {rung}: {name}\n")
        lines += [line for check in CHECKS if check.rung == rung for line in _one_check(check)]
    return "\n".join(lines)


def _one_check(check: Check) -> Iterator[str]:
    asked = ", ".join(f"`{feature}`" for feature in sorted(check.features))
    yield f"### {check.name}\n\n*{_sentence(check.title)}*"
    only = f", {check.only}" if check.only else ""
    yield (
        f"Asked of environments with the features {asked}{only}.\n" if asked else f"Asked of every environment{only}.\n"
    )
    yield f"- **Witnesses.** {_linked(check.witnesses)}"
    yield f"- **What fools weaker checks.** {_linked(check.mistakes)}"
    yield f"- **Fails when.** {_linked(check.fails)}\n"


def _linked(text: str) -> str:
    return text.replace("see docs/bounds.md", "see [the gradient bound](../bounds.md)")


# Causes of failures


def _causes() -> str:
    about = "What [`envbuilder doctor`](../howto/read-a-failure.md) knows. Texts in logs are searched as they stand.\n"
    lines = [HEAD + "# Causes of failures\n", about]
    for area, causes in AREAS.items():
        lines.append(f"## {area}\n")
        lines += [line for cause in causes for line in _one_cause(cause)]
    return "\n".join(lines)


def _one_cause(cause: Cause) -> Iterator[str]:
    yield f"### {cause.name}\n\n{_sentence(cause.what)}{' A hint: it breaks nothing by itself.' if cause.hint else ''}\n"
    yield f"- **Shown by.** {', '.join(f'`` {mark} ``' for mark in dict.fromkeys(sign.mark for sign in cause.signs))}"
    yield f"- **Remedy.** {_sentence(cause.remedy)}"
    if cause.explains:
        yield f"- **Explains.** {', '.join(f'`{name}`' for name in cause.explains)}"
    yield f"- **From.** {'; '.join(cause.sources)}\n"


# The command line


def _commands() -> str:
    lines = [HEAD + "# Command line\n", "What a command exits with: [exit codes](exit-codes.md).\n"]
    for name, verb in _verbs(_parser()):
        lines += [
            f"## envbuilder {name}\n",
            f"{_sentence(verb.description or '')}\n",
            f"```text\n{_usage(name, verb)}\n```\n",
        ]
        lines += ["| argument | meaning |\n|---|---|"]
        lines += [f"| `{_spelling(action)}` | {cell(action.help or '')} |" for action in _arguments(verb)]
        lines.append("")
    return "\n".join(lines)


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parser; argparse has no public way to walk them."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, verb in action.choices.items():
                inner = list(_verbs(verb))
                yield from ((f"{name} {part}", sub) for part, sub in inner) if inner else [(name, verb)]


def _arguments(verb: argparse.ArgumentParser) -> list[argparse.Action]:
    shown = [action for action in verb._actions if action.dest != "help"]  # noqa: SLF001
    return sorted(shown, key=lambda action: bool(action.option_strings))


def _usage(name: str, verb: argparse.ArgumentParser) -> str:
    if verb.usage:
        return verb.usage
    words = [_spelling(action) for action in _arguments(verb) if not action.option_strings]
    return " ".join(["envbuilder", name, "[OPTIONS]", *words])


def _spelling(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        value = "{" + ",".join(action.choices) + "}"
    if not action.option_strings:
        return {"*": f"[{value} ...]", "+": f"{value} [{value} ...]"}.get(str(action.nargs), value)
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


def _exit_codes() -> str:
    lines = [HEAD + "# Exit codes\n", "| code | meaning |\n|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in errors.EXIT_CODES.items()]
    lines += ["\nWhere several environments are verified, the worst outcome counts: 1 before 4 before 0.\n"]
    lines += ["Failures that are known have one message, one hint, and the exit code of their kind:\n"]
    lines += ["| kind | code | when |\n|---|---|---|"]
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.EnvbuilderError) and kind is not errors.EnvbuilderError:
            lines.append(f"| `{kind.__name__}` | {kind.exit_code} | {cell(kind.__doc__ or '')} |")
    return "\n".join(lines) + "\n"


# Modules


def _modules() -> str:
    paths = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_data" not in path.parts
        and path.parent.name not in ("probes", "workshop")
        and path.name != "__main__.py"
        and path != PACKAGE / "__init__.py"
    }
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    graph = {name: _imported(tree, frozenset(paths)) - {name} for name, tree in trees.items()}
    levels = {name: _level(name, graph) for name in graph}
    lines = [HEAD + "# Modules\n", "The level of a module is the longest chain of imports below it.\n"]
    lines += ["| level | module | what it is for |\n|---|---|---|"]
    for name in sorted(graph, key=lambda name: (levels[name], name)):
        first = (ast.get_docstring(trees[name]) or "").partition("\n")[0]
        lines.append(f"| {levels[name]} | `{name}` | {cell(first)} |")
    return "\n".join(lines) + "\n"


def _imported(tree: ast.Module, known: frozenset[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "envbuilder":
            inner = (node.module or "").removeprefix("envbuilder").lstrip(".")
            whole = {f"{inner}.{alias.name}".lstrip(".") for alias in node.names}
            found |= (whole & known) or ({inner} & known)
    return found


def _level(name: str, graph: dict[str, set[str]]) -> int:
    return 1 + max((_level(other, graph) for other in graph[name]), default=-1)


def main() -> int:
    """Write the pages; with `--check` write nothing and return 1 when one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is out of date")
    check = parser.parse_args().check
    wanted = pages()
    there = {
        path.relative_to(HERE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(HERE.rglob("*"))
        if path.is_file()
    }
    stale = [name for name in sorted({*wanted, *there}) if wanted.get(name) != there.get(name)]
    if check and stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python docs/generate.py\n")
        return 1
    for name in stale:
        path = HERE / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
