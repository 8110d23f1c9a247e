"""Makes the table of model types with their verdicts: ``python -m docs.make_models`` (some minutes)."""

import transformers

from docs.made import note, save, table
from headrace.chain.all_types import check_all
from headrace.chain.check import Verdict

TEXT = """# Models

A type of model is supported when a check proves it, on small random weights of that type: the model is cut in two
before every layer, and everywhere at once, and loss and every gradient are compared with the unsplit model of plain
transformers. *Exact* means no difference, to the last bit. The unsplit model itself must be causal and divide the sum
of its loss by the step's count of tokens. Ask for a type, a `config.json` or a folder of your own:

```bash
headrace check llama
headrace check path/to/model --json
headrace check --all --json
```

"""


def pages() -> dict[str, str]:
    """The page over every type that transformers lists as a causal language model."""
    verdicts = check_all()
    exact = [verdict for verdict in verdicts if verdict.exact]
    rest = [verdict for verdict in verdicts if not verdict.exact]
    unknown = [verdict for verdict in rest if (verdict.reason or "").startswith("transformers cannot")]
    refused = [verdict for verdict in rest if verdict not in unknown]
    text = note("docs.make_models") + TEXT
    text += f"Of {len(verdicts)} types in transformers {transformers.__version__}, {len(exact)} are exact.\n\n"
    text += table(("type", "verdict", "embedding and head"), map(exact_row, exact))
    text += "\n## Refused\n\n" + table(("type", "reason"), map(refused_row, refused))
    text += "\n## Not judged\n\nNo small model of these can be made from their default options, so nothing is proven "
    text += "and they are refused too: " + ", ".join(f"`{verdict.type}`" for verdict in unknown) + ".\n"
    return {"models.md": text}


def exact_row(verdict: Verdict) -> tuple[str, str, str]:
    """What is told of a type that is exact."""
    return f"`{verdict.type}`", f"exact at all {verdict.cuts} cuts", "tied" if verdict.tied else "apart"


def refused_row(verdict: Verdict) -> tuple[str, str]:
    """What is told of a type that is refused."""
    return f"`{verdict.type}`", (verdict.reason or "").splitlines()[0]


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    save(pages())
