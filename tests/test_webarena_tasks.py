"""WebArena's task files as installed, and what may run beside what."""

import collections
import os
import subprocess
import sys
import time

import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    webarena_quarantine,
    webarena_sites,
    webarena_tasks,
)

Item, Task = webarena_tasks.Item, types.Task
ADDRESSES = {f'WA_{site.upper()}': f'http://sites.test/{site}'
             for site in (*webarena_tasks.SITES, webarena_tasks.HOMEPAGE)}


def everything():
  return [(family, item) for family, items in webarena_tasks.families().items()
          for item in items]


def test_lite_and_training_are_the_published_split():
  lite = {i.number for f, i in everything() if webarena_tasks.is_lite(f)}
  rest = {i.number for f, i in everything() if not webarena_tasks.is_lite(f)}
  assert (len(lite), len(rest)) == (165, 647)
  assert not lite & rest and lite | rest == set(range(812))
  sizes = {f: len(items) for f, items in webarena_tasks.families().items()
           if webarena_tasks.is_lite(f)}
  assert sizes == {
      'webarena-lite-shopping': 45, 'webarena-lite-shopping_admin': 35,
      'webarena-lite-gitlab': 30, 'webarena-lite-map': 26,
      'webarena-lite-reddit': 19, 'webarena-lite-several': 10}
  kinds = collections.Counter(
      i.eval_types for f, i in everything() if webarena_tasks.is_lite(f))
  assert kinds == {
      ('string_match',): 78, ('program_html',): 48, ('url_match',): 18,
      ('url_match', 'program_html'): 19, ('string_match', 'url_match'): 2}


def test_seeds_are_in_the_documented_order():
  for family, items in webarena_tasks.families().items():
    n = webarena_tasks.n_reading(family)
    assert [i.writes for i in items] == [False] * n + [True] * (len(items) - n)
    assert [i.number for i in items[:n]] == sorted(i.number for i in items[:n])
    assert webarena_tasks.find(Task(family, 0)) == items[0]
  with pytest.raises(checks.EnvError, match='did you mean webarena-lite-map'):
    webarena_tasks.find(Task('webarena-light-map', 0))
  with pytest.raises(checks.EnvError, match='below 26'):
    webarena_tasks.find(Task('webarena-lite-map', 26))


def test_reading_the_files_imports_neither_package():
  code = ('from dreamgym_jax.envs import webarena_tasks as t; import sys; '
          't.families(); print([m for m in ("nltk", "openai", "gymnasium", '
          '"playwright", "browsergym.core") if m in sys.modules])')
  done = subprocess.run([sys.executable, '-c', code], check=True, text=True,
                        capture_output=True)
  assert done.stdout.strip() == '[]'


def test_what_writes_is_told_by_evaluator_or_verb():
  by_number = {i.number: i for _, i in everything()}
  for _, item in everything():
    if set(item.sites) <= {'map', 'wikipedia'}:
      assert not item.writes
    elif 'program_html' in item.eval_types:
      assert item.writes, item
  # Read by hand: evaluated by what the agent says, and yet they change things.
  for number in (491, 723, 726, 783, 789, 790, 791, *range(792, 799)):
    assert by_number[number].writes, by_number[number]
  # And these mention changes that others made, or none.
  for number in (4, 27, 96, 156, 173, 188, 199, 205, 213, 298, 357):
    assert not by_number[number].writes, by_number[number]


def test_missing_addresses_are_listed_exactly():
  some = {**ADDRESSES, 'WA_MAP': ''}
  del some['WA_REDDIT']
  with pytest.raises(checks.EnvError, match='sites: WA_MAP, WA_REDDIT not set'):
    webarena_tasks.addresses(some)
  with pytest.raises(checks.EnvError) as failure:
    webarena_tasks.addresses({})
  assert all(name in str(failure.value) for name in ADDRESSES)
  with pytest.raises(checks.EnvError, match=r'WA_GITLAB=.* is no address'):
    webarena_tasks.addresses({**ADDRESSES, 'WA_GITLAB': 'localhost:80'})
  assert webarena_tasks.addresses(ADDRESSES)['map'] == 'http://sites.test/map'


def test_lots_part_what_may_not_run_at_once():
  tasks = [Task(f, s) for f in ('webarena-lite-several', 'webarena-lite-reddit',
                                'webarena-lite-map') for s in range(10)]
  lots = webarena_tasks.lots(tasks)
  assert sorted(i for lot in lots for i in lot) == list(range(30))
  assert sum(webarena_tasks.find(tasks[i]).writes for i in lots[0]) == 0
  assert len(lots[0]) > 10
  was_writing = False
  for lot in lots:
    items = [webarena_tasks.find(tasks[i]) for i in lot]
    assert not webarena_tasks.clashes(items)
    assert len({i.writes for i in items}) == 1
    assert items[0].writes >= was_writing      # those that read come first
    was_writing = items[0].writes
  same = [webarena_tasks.find(Task('webarena-lite-reddit', 18))] * 2
  assert webarena_tasks.clashes(same) == [(0, 1)]
  reads = webarena_tasks.find(Task('webarena-lite-reddit', 0))
  assert webarena_tasks.clashes([reads, reads]) == []
  assert webarena_tasks.clashes([reads, same[0]]) == [(0, 1)]


def test_sites_are_put_back_before_and_after_writing():
  calls = []
  sites = webarena_sites.Sites({}, calls.append)
  assert sites.prepare({'a', 'b'}, writes=False) == '' and not calls
  assert sites.prepare({'a'}, writes=True) == '' and calls == ['a']
  sites.soil({'a'})
  assert sites.prepare({'b'}, writes=False) == '' and calls == ['a']
  assert sites.prepare({'a'}, writes=False) == '' and calls == ['a', 'a']
  # Known to be clean: nobody has written since.
  assert sites.prepare({'a'}, writes=True) == '' and len(calls) == 2
  assert sites.dirty == set() and sites.resets == 2


def test_a_hook_may_be_a_command_that_no_shell_reads(tmp_path):
  mark = tmp_path / 'a;b'
  command = [sys.executable, '-c',
             'import sys; open(sys.argv[1], "w").write(sys.argv[2])', str(mark)]
  assert not webarena_sites.Sites({}, command).prepare({'$HOME'}, True)
  assert mark.read_text() == '$HOME'
  with pytest.raises(ValueError, match='want a list'):
    webarena_sites.Sites({}, 'docker restart')


@pytest.mark.parametrize('hook, complaint', [
    (['false'], 'returned non-zero'),
    ([sys.executable, '-c', 'import time; time.sleep(60)'], 'timed out'),
    (['/no/such/command'], 'No such file'),
    (lambda site: 1 / 0, 'ZeroDivisionError'),
    (lambda site: time.sleep(60), 'longer than 0.2 s'),
])
def test_a_hook_that_fails_leaves_the_site_dirty(hook, complaint):
  sites = webarena_sites.Sites({}, hook, timeout=.2)
  sites.soil({'a'})
  assert complaint in sites.prepare({'a'}, writes=False)
  assert sites.dirty == {'a'}


def test_quarantine_counts_breaks_in_a_row_and_survives(tmp_path):
  first = webarena_quarantine.Quarantine(str(tmp_path), max_breaks=2)
  first.note_break('webarena.4', 'timeout: 60 s')
  first.note_good('webarena.4')
  first.note_break('webarena.4', 'timeout: 60 s')
  assert first.reason('webarena.4') == ''
  first.note_break('webarena.4', 'evaluator: KeyError')
  second = webarena_quarantine.Quarantine(str(tmp_path), max_breaks=2)
  assert 'broke 2 times' in second.reason('webarena.4')
  assert 'evaluator: KeyError' in second.reason('webarena.4')
  assert second.entries['webarena.4']['total'] == 3
  assert second.reason('webarena.5') == ''
  assert os.listdir(tmp_path) == ['webarena_quarantine.json']


@pytest.mark.parametrize('text', ['{', '[]', '{"a": 1}', '{"a": {"breaks": 1}}',
                                  '{"a":{"breaks":"1","total":1,"last":""}}'])
def test_a_spoilt_record_is_named(tmp_path, text):
  (tmp_path / 'webarena_quarantine.json').write_text(text)
  with pytest.raises(checks.EnvError, match='webarena_quarantine.json is no'):
    webarena_quarantine.Quarantine(str(tmp_path))
