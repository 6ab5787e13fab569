"""The pages name only things that exist: languages of fences, links, commands, options, settings, figures."""

import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ldm_ray.cli.app import app
from ldm_ray.config import Config, config_from_dict, load_config, setting_keys
from tests.docs_pages import LANGUAGES, ROOT, commands, ending, fences, headings, links, pages, simple_commands
from tests.docs_reader import COPIED, MAKERS, NEEDS, SMALLER, TAKES, small_settings
from tests.docs_runner import SUBSTITUTIONS, problems, unused_substitutions

PAGES = pages()
GROUPS = {key.split(".")[0] for key in setting_keys() if "." in key}
NO_SETTINGS = ("key.path", "ray.init", "ray.io", "ray.train", "ray.data", "ray.tune", "ray.serve")
"""What looks like a setting: the option's own help, and names of Ray's."""

CFF_REQUIRED = {"cff-version", "message", "title", "authors"}
CFF_KEYS = CFF_REQUIRED | {"abstract", "license", "references", "type", "version"}
RESULTS = ROOT / "benchmarks" / "results"
COST_FIGURES = {
    "2,953 wells/s": ("prepare", "rows_per_s", 1),
    "49.3 molecules/s": ("molformer", "molecules_per_s", 10),
    "17.1 steps/s": ("latents", "stream.cached.steps_per_s", 10),
    "20.8 steps/s": ("latents", "resident.cached.steps_per_s", 10),
    "355 wells/s": ("evaluate", "wells_per_s", 1),
    "199,119 wells": ("evaluate", "n_wells", 1),
    "8,273 rows/s": ("bulk", "rows_per_s_steady", 1),
    "52,318 wells/s": ("stream", "one_consumer.rows_per_s", 1),
    "6,638 profiles/s": ("serve", "profiles_per_s", 1),
    "988 with one": ("serve", "profiles_per_s_by_conditions_a_request.1", 1),
}
"""What docs/cost.md calls measured: file and key of the figure, and what one unit of its last digit is a part of."""


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_has_a_language(page: str) -> None:
    found = [f"{block.page}:{block.line} {block.language!r}" for block in fences(page)]
    assert [place for place, block in zip(found, fences(page), strict=True) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path if path else ROOT / page).resolve()
        if not (file.is_file() or file.is_dir()) or (anchor and anchor not in headings(str(file.relative_to(ROOT)))):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    names = sorted({page.removeprefix("docs/") for page in PAGES} - {"README.md"})
    listed = re.findall(
        r"^\| \[[^]]+\]\(([^)]+)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == names


@pytest.mark.parametrize("page", PAGES)
def test_the_runner_knows_how_each_command_ends(page: str) -> None:
    assert problems([page]) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    """Also in `console` blocks: commands that cannot run here are at least spelt right."""
    for block in fences(page):
        if block.language in ("sh", "console"):
            for command in commands(block):
                for words in simple_commands(command.text):
                    if words[0].rsplit("/", 1)[-1] == "ldm-ray":
                        assert unknown_words(words[1:]) == [], command.text


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", text)
    named = [name for name in named if name.split(".")[0] in GROUPS]
    named = [name for name in named if name.rsplit(".", 1)[1] not in ("json", "md", "py", "yaml")]
    named += re.findall(r"--set +['\"]?([a-z_0-9.]+)=", text)
    assert set(named) - set(setting_keys()) - set(NO_SETTINGS) == set()


def test_yaml_blocks_of_settings_are_settings() -> None:
    for page in PAGES:
        for block in fences(page):
            if block.language == "yaml":
                values = yaml.safe_load(block.text)
                if set(values) <= set(Config.model_fields) - {"storage_options"}:
                    Config.model_validate(values)


def test_unknown_commands_options_and_settings_are_noticed() -> None:
    assert unknown_words(["train", "vae", "--data", "d", "--epoch=3"]) == ["--epoch"]
    assert unknown_words(["train", "van"]) == ["van"]
    assert unknown_words(["demos"]) == ["demos"]
    assert unknown_words(["predict", "--bundle", "-x", "--smiles", "--cell"]) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ldm-ray train vae --data d", ["ends"]),
        (".venv/bin/ldm-ray serve --bundle b   # it's a page", ["serves"]),
        ("A=1 ray start --head && ray stop", ["starts a head", "stops a head"]),
        ("ray up cluster.yaml", [None]),
        ("export T=$(ray get-auth-token) | kubectl get pods", ["ends", "ends", None]),
        ("make test", [None]),
    ],
)
def test_how_commands_end(text: str, wanted: list[str | None]) -> None:
    assert [ending(words) for words in simple_commands(text)] == wanted


def test_the_runners_tables_name_what_is_there() -> None:
    assert unused_substitutions(PAGES) == []
    assert {page for page, *_ in SUBSTITUTIONS} <= {"", *PAGES}
    assert {name for names in [*NEEDS.values(), *TAKES.values()] for name in names} <= set(MAKERS)
    assert set(TAKES) <= set(MAKERS)
    for command in MAKERS.values():
        (words,) = simple_commands(command)
        assert unknown_words(words[1:]) == []
    assert {text.partition("=")[0] for text in SMALLER} <= set(setting_keys())
    assert {"jobs", "ldm_ray"} <= set(COPIED)


@pytest.mark.parametrize("path", sorted((ROOT / "ldm_ray/configs").glob("*.yaml")), ids=lambda path: str(path.name))
def test_small_settings_are_settings(path: Path) -> None:
    from ldm_ray.config import PRESETS, merged

    values = yaml.safe_load(path.read_text())
    small = small_settings(values)
    config = config_from_dict(merged(PRESETS[small["preset"]], small))
    assert config.train_ldm.epochs == 2
    assert set(config.tune.space) == set((values.get("tune") or {}).get("space", {}))


@pytest.mark.parametrize("said", COST_FIGURES)
def test_measured_costs_are_those_of_the_results(said: str) -> None:
    name, key, scale = COST_FIGURES[said]
    values = json.loads((RESULTS / f"{name}.json").read_text())
    figure: float = reduce(lambda found, part: found[part], key.split("."), values)  # type: ignore[arg-type,return-value]
    assert said in (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    assert float(said.split()[0].replace(",", "")) == round(figure * scale) / scale


def test_readmes_scores_are_those_of_the_shipped_settings() -> None:
    """`ldm-ray demo` without `--config demo` trains for fewer epochs; its figures were once taken for the demo's."""
    demo, mini = (json.loads((RESULTS / f"{name}_by_group.json").read_text()) for name in ("demo", "mini"))
    figures, references = mini["models"]["default"]["figures"], mini["references"]
    rivals = {"train_prnet", "train_pertdit", "pertdit", "table1", "reproduce"}
    for said, name in ((yaml.safe_load(demo["settings"]), "demo"), (mini["settings"]["default"], "mini")):
        own, shipped = (c.model_dump(exclude=rivals) for c in (config_from_dict(said), load_config(name)))
        assert own == shipped
    rows = {(row["model"], row["prediction"]): row for row in demo["rows"]}
    table = {  # the order of README's rows
        "delta_pcc": (("ldm", "mean_direct"), ("ridge", "mean"), ("mean_delta", "mean")),
        "systematic_pcc": (("ldm", "mean_direct"), ("ridge", "mean"), ("mean_delta", "mean")),
        "explained_share": (("ldm", "mean_direct"), ("ridge", "mean")),
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| [^|]*\| (?:model|ridge|mean change) \| ([-\d.]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    wanted = []
    for key, models in table.items():
        decimals = 2 if key == "explained_share" else 3
        for name in models:
            real = figures.get(key) if name[0] == "ldm" else references[name[0]][key]
            text_of_real = "{mean:.3f} ± {sd:.3f}".format(**real) if isinstance(real, dict) else f"{real or 0:.3f}"
            unknown = key == "explained_share"  # of a real release nobody knows the truth
            wanted.append((f"{rows[name][key]:.{decimals}f}", "unknown" if unknown else text_of_real))
    assert said == wanted


def test_citation_is_one() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert CFF_REQUIRED <= set(citation) <= CFF_KEYS
    assert str(citation["cff-version"]) == "1.2.0"
    assert (citation["type"], citation["license"]) == ("software", "Apache-2.0")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{citation["version"]}"' in project
    for entry in [citation, *citation["references"]]:
        assert entry["authors"]
        assert all({"name"} <= set(author) or {"family-names"} <= set(author) for author in entry["authors"])
    (paper,) = citation["references"]
    assert paper["type"] == "article"
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def unknown_words(arguments: list[str]) -> list[str]:
    """Return commands and options of `ldm-ray` that do not exist, without running it."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return [rest[0]]
        command = command.commands[rest.pop(0)]
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    unknown, takes_value = [], False
    for word in rest:
        if takes_value:
            takes_value = False
        elif word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            if name not in options and name != "--help":
                unknown.append(name)
            elif name != "--help":
                takes_value = not equals and not getattr(options[name], "is_flag", False)
    return unknown
