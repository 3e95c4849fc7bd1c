"""One completion of a config's model, for a quick look.

A pretrained model answers the prompt as a chat. Our own policy reads it as a
task: an instruction, and its page on the lines after.
"""

import jax

from dreamgym_jax import config, sampling
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import states

_NEWEST = ('transfer', 'dream', 'warmup')   # policies, the last one first
_MAX_NEW = 128


def complete(files: runs.Files, prompt: str) -> str:
  """The most probable text after the prompt; reads files, writes none."""
  if not prompt.strip():
    raise config.ConfigError("--prompt='': say what --mode=generate continues")
  is_ours = not files.config.model.pretrained
  tok = files.tok
  cfg = files.model_config(tok.vocab_size)
  if is_ours:
    name = next((n for n in _NEWEST
                 if files.path(f'{n}.safetensors').exists()), _NEWEST[-1])
    params = files.params(name, cfg)
    ids, stop = _task(files, prompt), [tok.tag['end']]
  else:   # without adapters: they are for streams, not for chats
    params = files.base
    ids, stop = tok.chat([{'role': 'user', 'content': prompt}]), tok.eos
  size = -(-(len(ids) + _MAX_NEW) // 128) * 128
  sampler = sampling.Sampler(cfg, 1, size, row_buckets=(), column_buckets=(),
                             token_buckets=(32, 128))
  turn, = sampler.turn(
      params, [0], [ids], key=jax.random.key(files.config.seed), streams=[0],
      temperature=0, max_new=_MAX_NEW, stop=stop)
  return (tok.show if is_ours else tok.decode)(turn.tokens)


def _task(files: runs.Files, prompt: str) -> list[int]:
  """The policy's stream: up to its thought, or without a page up to that."""
  instruction, _, page = prompt.strip().partition('\n')
  streams = files.prompts()
  if not page:
    return streams.start(instruction, '')
  try:
    states.parse(page)
  except states.StateError as error:
    raise config.ConfigError(f'--prompt: {error}') from error
  return streams.start(instruction, page) + streams.policy_ask(instruction)
