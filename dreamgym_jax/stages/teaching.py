"""Who explains real transitions: the teacher that the config names, if any."""

from dreamgym_jax import distributed, types
from dreamgym_jax.data import endpoint, teacher
from dreamgym_jax.stages import run as runs

_LONG = 7 * 24 * 3600.0     # seconds that a teacher may take


def ask(run: runs.Run) -> endpoint.Endpoint:
  """The endpoint that the config names; answers are kept in the workdir."""
  t = run.config.teacher
  return endpoint.Endpoint(endpoint.Settings(
      t.base_url, t.model, t.key_env, t.temperature, t.max_tokens, t.limit,
      t.json_mode, t.timeout, t.retries, t.workers, t.prompt_price,
      t.completion_price), run.workdir / runs.TEACHER)


def annotate(
    run: runs.Run, episodes: list[types.Episode]
) -> list[types.Episode]:
  """Episodes with R* of config.teacher; as they are where it names none.

  What the teacher could not annotate keeps the rule's R*; each episode's
  `annotator` says whose it has. Interrupted, it goes on from the cache.
  """
  t = run.config.teacher
  if not t.base_url:
    return episodes
  asked = ask(run)
  # The first process asks; the others find its answers in the cache.
  if not distributed.is_first():
    distributed.barrier('teacher asked', _LONG)
  try:
    with run.bar(len(episodes), 'episodes') as bar:
      done = teacher.annotate_all(
          episodes, asked, t.attempts, t.max_chars, bar.update)
  finally:
    asked.close()
  if distributed.is_first():
    distributed.barrier('teacher asked', _LONG)
  usage = asked.usage
  run.say(f'   {t.model} explained '
          f'{len(episodes) - sum(done.failures.values()):,} of '
          f'{len(episodes):,} episodes (not: {done.failures or "none"}); '
          f'{usage.calls:,} answers so far, ${asked.dollars:,.2f}')
  return done.episodes
