"""Why an expert gains or loses on a domain: the domain spreads over clusters, or is unlike them.

python tests/benchmarks/experts.py --config=configs/documentation_study.py --workdir=runs/study \
  --folder=FOLDER --method=slm_pn

Prints for each domain of a study, as nats per token of test text before any fine-tuning, how much
better than the plain model are: the expert of the domain's most frequent cluster, the mixture by
its histogram, the expert that is best on this very text, and, for each document, the expert of its
own cluster. If the last one gains and the first does not, one expert is too little for the domain;
if it does not gain either, the clusters' text is unlike the domain's.
"""

from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from specialization import main as command
from specialization.data import clusters, embed, rows
from specialization.data.documents import Documents
from specialization.phases.prepare import Prepared
from specialization.phases.pretrain import Pretrained
from specialization.study import Run

CONFIG = flags.DEFINE_string("config", None, "The study's config.", required=True)
FOLDER = flags.DEFINE_string("folder", None, "The config's data.folder.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder.", required=True)
METHOD = flags.DEFINE_string("method", None, "A method with experts.", required=True)
PLAIN = flags.DEFINE_string("plain", "slm", "A method without.")


def main(_: list[str]) -> None:
  config = command.load_config(CONFIG.value, {"data.folder": FOLDER.value})
  workdir = Path(WORKDIR.value)
  data = Prepared(config, workdir)
  plain, experts = (
    Pretrained(config, workdir, Run(method, "", 0, 1.0, 0), data)
    for method in (PLAIN.value, METHOD.value)
  )
  generic = Documents(workdir / "data/documents/generic")
  where = workdir / "data/embedder"
  embedder = embed.prepare(generic, config.clusters, where, config.seed, experts.mesh)
  k = experts.family.clusters
  print(f"{'gain in nats':12} top share  frequent histogram      best    routed")
  gains = []
  for name in config.data.domains:
    documents = Documents(workdir / "data/documents" / name)
    folder = workdir / "experts" / name
    vectors = embed.embed_documents(embedder, documents, "test", folder / "embeddings")
    grouped = rows.build_windows(
      documents,
      "test",
      data.tokenizer,
      config.sequence_length,
      folder / "test",
      max_tokens=config.data.max_evaluation_tokens,
      leaves=clusters.assign(vectors, data.tree.centroids),
      n_leaves=data.tree.n_leaves,
      clusters=data.tree.hash,
    )
    histogram = data.domain(name).train.histogram(
      data.tree, k, min(config.specialize.domain_tokens)
    )
    with jax.set_mesh(experts.mesh):
      each = [experts.score(one, grouped).nll for one in np.eye(k)]
      losses = [
        each[int(histogram.argmax())],
        experts.score(histogram, grouped).nll,
        min(each),
        experts.routed_score(grouped).nll,
      ]
      gains.append(plain.score(np.ones(1), grouped).nll - np.array(losses))
    print(
      f"{name:12} {histogram.max():9.2f} ", *(f"{gain:+9.3f}" for gain in gains[-1]), flush=True
    )
  print(f"{'mean':22} ", *(f"{gain:+9.3f}" for gain in np.mean(gains, axis=0)))


if __name__ == "__main__":
  app.run(main)
