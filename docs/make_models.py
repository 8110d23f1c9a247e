"""Makes the table of model types with their verdicts: ``python -m docs.make_models`` (about two minutes)."""

import re

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from docs.made import note, save, table
from headrace.chain.build import config_of
from headrace.chain.check import Verdict, check
from headrace.errors import RequestError

TEXT = """# Models

A type of model is supported when a check proves it, on small random weights of that type: the model is cut in two
before every layer, and loss and every gradient are compared with the unsplit model of plain transformers. *Exact*
means no difference, to the last bit. Ask for a type, a `config.json` or a folder of your own:

```bash
headrace check llama
headrace check path/to/model --json
```

"""


def pages() -> dict[str, str]:
    """The page over every type that transformers lists as a causal language model."""
    verdicts = [verdict_of(name) for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)]
    exact = [verdict for verdict in verdicts if verdict.exact]
    rest = [verdict for verdict in verdicts if not verdict.exact]
    unknown = [verdict for verdict in rest if re.match(r"\w+(Error|Exception):", verdict.reason or "")]
    refused = [verdict for verdict in rest if verdict not in unknown]
    text = note("docs.make_models") + TEXT
    text += f"Of {len(verdicts)} types in transformers {transformers.__version__}, {len(exact)} are exact.\n\n"
    text += table(("type", "verdict", "embedding and head"), map(exact_row, exact))
    text += "\n## Refused\n\n" + table(("type", "reason"), map(refused_row, refused))
    text += "\n## Not judged\n\nNo small model of these can be made from their default options, so nothing is proven "
    text += "and they are refused too: " + ", ".join(f"`{verdict.type}`" for verdict in unknown) + ".\n"
    return {"models.md": text}


def verdict_of(name: str) -> Verdict:
    """The verdict on a type with its default options; on one that transformers itself refuses, a refusal."""
    try:
        return check(config_of(name))
    except RequestError as error:
        return Verdict(name, False, 0, reason=str(error))


def exact_row(verdict: Verdict) -> tuple[str, str, str]:
    """What is told of a type that is exact."""
    return f"`{verdict.type}`", f"exact at all {verdict.cuts} cuts", "tied" if verdict.tied else "apart"


def refused_row(verdict: Verdict) -> tuple[str, str]:
    """What is told of a type that is refused."""
    return f"`{verdict.type}`", (verdict.reason or "").splitlines()[0]


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    save(pages())
