"""The transformer against Hugging Face's LlamaForCausalLM with the same weights."""

import jax
import numpy as np
import pytest
import torch
import transformers

import tiny
from specialization.models import Params, Transformer

pytestmark = pytest.mark.oracle


def to_llama(model: Transformer, params: Params) -> transformers.LlamaForCausalLM:
  """Returns a LlamaForCausalLM with the transformer's weights; its kernels are [out, in]."""
  c = model.config
  llama = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=model.vocab_size,
      hidden_size=c.d_model,
      intermediate_size=c.d_mlp,
      num_hidden_layers=c.n_layers,
      num_attention_heads=c.n_heads,
      num_key_value_heads=c.n_kv_heads,
      rms_norm_eps=c.norm_epsilon,
      rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
      tie_word_embeddings=c.tie_embeddings,
      attention_bias=False,
      mlp_bias=False,
    )
  ).eval()
  layers = params["layers"]
  weights = {
    "model.embed_tokens.weight": params["embedding"]["table"],
    "model.norm.weight": params["final_norm"]["scale"],
  }
  for i in range(c.n_layers):
    at = f"model.layers.{i}."
    weights[at + "input_layernorm.weight"] = layers["attention_norm"]["scale"][i]
    weights[at + "post_attention_layernorm.weight"] = layers["mlp_norm"]["scale"][i]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
      kernel = layers["attention"][ours]["kernel"][i]
      weights[f"{at}self_attn.{theirs}_proj.weight"] = kernel.T
    for name in ("gate", "up", "down"):
      weights[f"{at}mlp.{name}_proj.weight"] = layers["mlp"][name]["kernel"][i].T
  head = params["embedding"]["table"] if c.tie_embeddings else params["head"]["kernel"].T
  weights["lm_head.weight"] = head
  tensors = {name: torch.tensor(np.array(value)) for name, value in weights.items()}
  missing = llama.load_state_dict(tensors, strict=True)
  assert not missing.missing_keys
  return llama


def perturbed(params: Params) -> Params:
  """Norm scales start at one, where a forgotten scale would not show."""
  flat, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(flat))
  return treedef.unflatten(
    [p * (1 + 0.2 * jax.random.normal(k, p.shape)) for p, k in zip(flat, keys, strict=True)]
  )


@pytest.mark.parametrize("name", tiny.FAMILIES)
@pytest.mark.parametrize(
  "changes",
  [
    {"n_kv_heads": 4},
    {"n_kv_heads": 2},
    {"n_kv_heads": 1, "tie_embeddings": False, "rope_theta": 500_000.0},
  ],
  ids=str,
)
def test_materialized_logits_equal_llama(name, changes):
  of = tiny.family(name, over=tiny.transformer(**changes))
  params = perturbed(of.init(jax.random.key(0)))
  mixture = jax.random.dirichlet(jax.random.key(1), np.ones(of.clusters))
  small = of.materialize(params, mixture)
  llama = to_llama(of.transformer, jax.tree.map(np.asarray, small))
  rng = np.random.default_rng(0)
  for tokens in (rng.integers(0, tiny.VOCAB, (3, 40)), np.zeros((1, 9), int), np.full((2, 1), 95)):
    ours = of.transformer.logits(small, jax.numpy.asarray(tokens, "int32"))
    with torch.no_grad():
      theirs = llama(torch.tensor(tokens)).logits.numpy()
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
