r"""What documentation_study.py shows of domains, of sources of its own generic text.

Its domains are other than its generic text. These are not: each is one source of it, held out, so
that a cluster's text is like the domain's text of the same cluster, which methods that condition on
clusters assume. Sources are told apart by their documents' addresses, of which every fifth is for
validation and every fifth for testing:

mkdir -p runs/shift && cp -r runs/study/data runs/study/pretrain runs/shift
zcat FOLDER/generic-validation.*.json.gz |
  jq -c '{text, meta: {pile_set_name: "\(.url | split("/")[3]) \(["train", "train", "train",
    "validation", "test"][input_line_number % 5])"}}' > FOLDER/held-out.jsonl
python -m specialization run --config=configs/documentation_shift.py --workdir=runs/shift \
  --config.data.folder=FOLDER

The copy is what both have in common, pretraining included.
"""

from ml_collections import ConfigDict

import corpora
import documentation_study

# All with at least 200 kB of held-out text.
SOURCES = ("ada", "gcide", "java", "kernel", "man", "perl", "python", "racket", "sqlite")
METHODS = ("slm", "slm_mix", "slm_pn", "slm_pn_4", "slm_pn_histogram")


def get_config(variant: str = "") -> ConfigDict:
  config = documentation_study.part("documentation shift", METHODS, (1.0,))
  with config.unlocked():
    config.data.domains = {
      name: {
        split: (f"held-out.jsonl?pile_set_name={name} {split}",)
        for split in ("train", "validation", "test")
      }
      for name in SOURCES
    }
  if variant == "smoke":
    corpora.smoke(config)
  return config
