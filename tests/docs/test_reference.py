"""The pages that are made from the code say what the code says; a new option or key is a decision."""

import doctest
import re
from pathlib import Path

import pytest

from docs import make_models, make_reference, make_schedules
from docs.made import DOCS
from headrace.chain.check import check_named
from headrace.schedule import FAMILIES
from headrace.train.config import known_keys

README = DOCS.parent / "README.md"
MAKE_SCHEDULES = "run: python -m docs.make_schedules"

OPTIONS = {
    "train": "CONFIG SECTION.KEY=VALUE --run-dir --resume --json",
    "launch": "CONFIG SECTION.KEY=VALUE --on --nodes --gpus-per-node --run-dir --out",
    "check": "MODEL --all --json",
    "plan": "CONFIG SECTION.KEY=VALUE --json",
    "simulate": "SCHEDULE --stages --microbatches --f-ms --i-ms --w-ms --comm-ms --chunks --memory-limit --w-memory "
    "--plot --json",
    "profile": "CONFIG SECTION.KEY=VALUE --rows --json",
    "cluster": "--json",
    "view": "RUN --out --json",
    "export": "RUN DIR",
    "sample": "RUN PROMPT --tokens --temperature --seed --json",
}
KEYS = """
    model model.config model.path model.dtype
    data data.text data.jsonl data.dataset data.tokens data.field data.tokenizer data.vocab_size
    data.sequence_length data.seed data.validation_sequences
    parallel parallel.dp parallel.pp parallel.tp parallel.chunks parallel.schedule parallel.microbatches
    parallel.cuts parallel.recompute parallel.post_validation parallel.loss_chunks parallel.offload
    train train.steps train.batch train.optimizer train.learning_rate train.min_learning_rate_ratio
    train.warmup_steps train.betas train.weight_decay train.clip_norm train.autocast train.compile train.freeze
    train.seed train.evaluate_every train.timeout_s
    checkpoint checkpoint.every checkpoint.keep
    track track.tensorboard
    run
"""
VERBS = make_reference.verbs()


@pytest.mark.parametrize(("name", "text"), make_reference.pages().items())
def test_reference_pages_are_those_that_the_code_makes(name: str, text: str) -> None:
    assert (DOCS / name).read_text() == text, "run: python -m docs.make_reference"


def test_schedules_page_has_the_figures_of_every_family() -> None:
    assert make_schedules.pages()["schedules.md"] == (DOCS / "schedules.md").read_text(), MAKE_SCHEDULES
    assert make_schedules.readme_table() in README.read_text(), MAKE_SCHEDULES


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_picture_with_the_figures_of_today(name: str) -> None:
    picture = (DOCS / make_schedules.PICTURES / f"{name}.svg").read_text()
    simulation = make_schedules.show(name).simulation
    assert f"{simulation.step_s * 1e3:.4g} ms, {simulation.idle_share:.1%} idle" in picture, MAKE_SCHEDULES


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_models_page_has_the_verdict_of_exact_types(name: str) -> None:
    row = make_models.exact_row(check_named(name))
    assert f"| {' | '.join(row)} |" in (DOCS / "models.md").read_text(), "run: python -m docs.make_models"


def test_models_page_has_the_reason_of_refused_types() -> None:
    row = make_models.refused_row(check_named("bart"))
    assert f"| {' | '.join(row)} |" in (DOCS / "models.md").read_text(), "run: python -m docs.make_models"


def test_no_new_verb_or_option_by_accident() -> None:
    found = {
        name: " ".join(each.metavar if each.param_type_name == "argument" else each.opts[0] for each in verb.params)
        for name, verb in VERBS.items()
    }
    assert found == OPTIONS


def test_no_new_configuration_key_by_accident() -> None:
    assert list(known_keys()) == KEYS.split()


def test_every_configuration_key_is_documented() -> None:
    assert [key for key, text in known_keys().items() if not text.endswith((".", ")"))] == []


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_and_an_example_of_itself(name: str) -> None:
    verb = VERBS[name]
    assert verb.help.endswith(".")
    assert make_reference.example(verb).startswith(f"headrace {name} ")
    assert [each.name for each in verb.params if not (each.help or "").endswith(".")] == []


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), README]), ids=lambda page: page.stem)
def test_every_command_in_the_docs_names_a_verb_and_options_that_exist(page: Path) -> None:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
    for line in re.findall(r"^headrace (.+)$", blocks, re.MULTILINE):
        verb, *words = line.split("#")[0].split()
        assert verb in VERBS, line
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= {option for each in VERBS[verb].params for option in each.opts}, line


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), README]), ids=lambda page: page.stem)
def test_python_in_the_docs_prints_what_they_say(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0
