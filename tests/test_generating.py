"""A quick look at the shipped policy, and prompts that cannot be."""

import pytest

from dreamgym_jax import config, train
from dreamgym_jax.stages import generating
from dreamgym_jax.stages import run as runs

PAGE = '[1] button: Cancel\n[2] button: Ok'
pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_the_shipped_policy_answers_a_task(tmp_path, capsys):
  c = config.defaults()
  train.main('generate', c, tmp_path / 'run', '', '',
             prompt=f'Click on the "Ok" button.\n{PAGE}')
  said = capsys.readouterr().out
  assert said.split() == 'need Ok [2] <act> click [2] <end>'.split()
  assert not (tmp_path / 'run').exists()   # looking leaves no traces


@pytest.mark.parametrize('prompt, words', [
    ('', '--prompt'), (' \n', '--prompt'),
    ('Click Ok.\nbutton: Ok', '--prompt: not .*button: Ok'),
])
def test_a_prompt_that_cannot_be_is_named(tmp_path, prompt, words):
  files = runs.Files(config.defaults(), tmp_path)
  with pytest.raises(config.ConfigError, match=words):
    generating.complete(files, prompt)
