"""Episodes survive both formats; damage is named and loses nothing else."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax.data import trajectories
from dreamgym_jax.text import states
from dreamgym_jax.types import Episode, Task, Transition

S0 = '[1] textbox: Username =\n[2] button: OK'
S1 = '[1] textbox: Username = Rendé \ud800\n[2] button: OK'
S1_INVALID = f'! invalid action\n{S1}'
WON = Episode(
    Task('login', 3, 'Log in as "Rendé"', S0),
    (Transition(S0, 'fill [1] Rendé \ud800', S1, 0.0, False, thought='name'),
     Transition(S1, 'click [9]', S1_INVALID, 0.0, False, True),
     Transition(S1_INVALID, 'click [2]', 'over', 1.0, True,
                reasoning='OK is wanted', success_prob=0.25)),
    'dreamed', 'policy', 'login/3/0')
CRASHED = Episode(Task('scroll', 9, 'x', S0, 'generated', 'login/3'), (),
                  'real', 'near_miss', 'scroll/9/0', True, 'time-out')
LOST = Episode(
    Task('login', 4, 'x', S0),
    (Transition(S0, 'noop', 'anything\n\nat all', 0.0, False),
     # Neither follows from the state before it, nor is it made of elements.
     Transition('another page', 'click [1]', '', 0.0, True)),
    'real', 'random', 'login/4/0')
EPISODES = [WON, CRASHED, LOST]


@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz'])
def test_jsonl_round_trip(tmp_path, name):
  path = tmp_path / 'new' / name
  assert trajectories.write_jsonl(path, EPISODES) == 3
  assert trajectories.read_jsonl(path) == EPISODES
  assert trajectories.append_jsonl(path, [WON]) == 1
  assert trajectories.read_jsonl(path) == [*EPISODES, WON]
  assert [p.name for p in path.parent.iterdir()] == [name]
  trajectories.append_jsonl(tmp_path / name, [LOST])   # makes the file
  assert trajectories.read_jsonl(tmp_path / name) == [LOST]


_elements = st.dictionaries(
    st.integers(1, 5), st.sampled_from(['button: a', 'textbox: b = c',
                                        'checkbox: checked']))
_pages = st.one_of(
    _elements.map(lambda e: '\n'.join(f'[{i}] {b}' for i, b in e.items())),
    _elements.map(lambda e: '! invalid action\n' + '\n'.join(
        f'[{i}] {b}' for i, b in e.items())),
    st.text(max_size=20), st.sampled_from(['over', 'same', 'invalid', 'page']))
_transitions = st.builds(
    Transition, _pages, st.text(max_size=8), _pages,
    st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
    st.booleans(), st.text(max_size=4), st.text(max_size=4))


@settings(max_examples=150, deadline=None)
@given(_pages, st.lists(_transitions, max_size=4), st.booleans())
def test_any_episode_round_trips(tmp_path_factory, start, steps, chained):
  if chained:   # as a world makes them: each state is where the last one led
    before = [start, *(t.next_state for t in steps)]
    steps = [Transition(s, *list(vars(t).values())[1:])
             for s, t in zip(before, steps, strict=False)]
  episode = Episode(Task('f', 0, '', start), tuple(steps), 'real', 'b', 'id')
  path = tmp_path_factory.getbasetemp() / 'any.jsonl'
  trajectories.write_jsonl(path, [episode])
  assert trajectories.read_jsonl(path) == [episode]


def test_lines_store_edits_and_not_states(tmp_path):
  path = tmp_path / 'a.jsonl'
  trajectories.write_jsonl(path, [WON])
  record = json.loads(path.read_text())
  assert record['version'] == trajectories.VERSION
  assert [s['edit'] for s in record['steps']] == [
      states.diff(S0, S1), 'invalid', 'over']
  assert not any('state' in s or 'next_state' in s for s in record['steps'])


def _break(record: dict, change: dict) -> bytes:
  record = json.loads(json.dumps(record))
  for path, value in change.items():
    *parents, key = path.split('/')
    at = record
    for p in parents:
      at = at[int(p) if p.isdigit() else p]
    if value is None:
      del at[key]
    else:
      at[key] = value
  return json.dumps(record).encode()


@pytest.mark.parametrize('change, complaint', [
    ({'version': 2}, 'version 1'),
    ({'task': None}, 'task: want dict'),
    ({'task/seed': '3'}, 'task.seed: want int'),
    ({'task/source': 'dreamed'}, 'task.source: want one of'),
    ({'source': 'imagined'}, 'source: want one of'),
    ({'behaviour': None}, 'behaviour is missing'),
    ({'extra': 1}, "unknown fields .'extra'"),
    ({'steps/1/extra': 1}, r'steps\[1\].*extra'),
    ({'steps/0/action': 3}, r'steps\[0\].action: want str'),
    ({'steps/2/reward': True}, r'steps\[2\].reward: want float'),
    ({'steps/2/reward': 10 ** 400}, r'steps\[2\].reward: want float'),
    ({'steps/0/edit': 'remove [7]'}, r'steps\[0\].edit: removes what is not'),
    ({'steps': {}}, 'steps: want list'),
])
def test_a_corrupt_field_is_named(tmp_path, change, complaint):
  path = tmp_path / 'a.jsonl'
  trajectories.write_jsonl(path, EPISODES)
  lines = path.read_bytes().split(b'\n')
  lines[0] = _break(json.loads(lines[0]), change)
  path.write_bytes(b'\n'.join(lines))
  with pytest.raises(trajectories.TrajectoryError, match=complaint) as e:
    trajectories.read_jsonl(path)
  assert f'{path}, line 1: ' in str(e.value)


@pytest.mark.parametrize(
    'line', [b'{"version":1,', b'[]', b'nonsense', b'\xff\xfe', b'NaN'])
def test_corrupt_lines_can_be_skipped(tmp_path, line):
  path = tmp_path / 'a.jsonl'
  trajectories.write_jsonl(path, [WON])
  path.write_bytes(path.read_bytes() + line + b'\n')
  trajectories.append_jsonl(path, [LOST])
  with pytest.raises(trajectories.TrajectoryError, match='a.jsonl, line 2: '):
    trajectories.read_jsonl(path)
  reported = []
  kept = trajectories.read_jsonl(path, True, reported.append)
  assert kept == [WON, LOST] and len(reported) == 1


def test_an_unfinished_line_spoils_no_other(tmp_path):
  path = tmp_path / 'a.jsonl'
  trajectories.write_jsonl(path, [WON, LOST])
  path.write_bytes(path.read_bytes()[:-20])   # killed while writing
  trajectories.append_jsonl(path, [CRASHED])
  assert trajectories.read_jsonl(path, skip_corrupt=True) == [WON, CRASHED]


def test_a_cut_gzip_gives_what_is_left(tmp_path):
  path = tmp_path / 'a.jsonl.gz'
  many = [Episode(Task('f', i, str(np.random.default_rng(i).random(9)), S0),
                  (), 'real', 'b', str(i)) for i in range(300)]
  trajectories.write_jsonl(path, many)
  path.write_bytes(path.read_bytes()[:-400])
  with pytest.raises(trajectories.TrajectoryError, match='gzip, the rest is'):
    trajectories.read_jsonl(path)
  with pytest.raises(trajectories.TrajectoryError, match='gzip'):
    trajectories.append_jsonl(path, [WON])
  kept = trajectories.read_jsonl(path, skip_corrupt=True)
  assert 0 < len(kept) < 300 and kept == many[:len(kept)]


def test_what_json_would_change_is_refused_and_the_file_kept(tmp_path):
  path = tmp_path / 'a.jsonl'
  trajectories.write_jsonl(path, [WON])
  bad = Episode(Task('f', 1), (Transition('', '', '', float('nan'), True),),
                'real', 'b', 'the-bad-one')
  with pytest.raises(trajectories.TrajectoryError, match='the-bad-one'):
    trajectories.write_jsonl(path, [LOST, bad])
  assert trajectories.read_jsonl(path) == [WON]


def test_same_episodes_same_bytes(tmp_path):
  a, b = tmp_path / 'a.jsonl.gz', tmp_path / 'b.jsonl.gz'
  trajectories.write_jsonl(a, EPISODES)
  trajectories.write_jsonl(b, trajectories.read_jsonl(a))
  assert gzip.decompress(a.read_bytes()) == gzip.decompress(b.read_bytes())
  assert a.read_bytes() == b.read_bytes()


def test_tfds_is_rlds_and_round_trips(tmp_path):
  tfds = pytest.importorskip('tensorflow_datasets')
  card = trajectories.card(EPISODES)
  target = trajectories.build_tfds(
      {'train': EPISODES * 7, 'test': [LOST]}, tmp_path, card=card)
  assert trajectories.read_tfds(tmp_path) == EPISODES * 7   # in order
  assert trajectories.read_tfds(tmp_path, split='test') == [LOST]
  builder = tfds.builder_from_directory(target)
  assert builder.info.metadata['card'] == json.loads(json.dumps(card))
  won, crashed, *_ = builder.as_data_source('train')
  steps = list(won['steps'])
  # n transitions are n + 1 steps; the last one only observes.
  assert [s['observation'].decode('utf-8', 'surrogatepass')
          for s in steps] == [S0, S1, S1_INVALID, 'over']
  assert [float(s['reward']) for s in steps] == [0, 0, 1, 0]
  assert [float(s['discount']) for s in steps] == [1, 1, 0, 0]
  for key, want in {'is_first': 0, 'is_last': 3, 'is_terminal': 3}.items():
    assert [bool(s[key]) for s in steps] == [i == want for i in range(4)]
  assert won['episode_metadata']['success']
  (only,) = crashed['steps']
  assert only['is_first'] and only['is_last'] and not only['is_terminal']


def test_tfds_refuses_what_it_cannot_keep(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  with pytest.raises(trajectories.TrajectoryError, match='no TFDS dataset'):
    trajectories.read_tfds(tmp_path)
  with pytest.raises(trajectories.TrajectoryError, match="no episodes.*'test'"):
    trajectories.build_tfds({'train': [WON], 'test': []}, tmp_path)
  trajectories.build_tfds({'train': [WON]}, tmp_path)
  with pytest.raises(trajectories.TrajectoryError, match='1.0.0 exists'):
    trajectories.build_tfds({'train': [LOST]}, tmp_path)
  with pytest.raises(trajectories.TrajectoryError, match="not 'gate'"):
    trajectories.read_tfds(tmp_path, split='gate')
  trajectories.build_tfds({'train': [LOST]}, tmp_path, overwrite=True)
  assert trajectories.read_tfds(tmp_path) == [LOST]
  trajectories.build_tfds({'train': [WON]}, tmp_path, version='1.10.0')
  trajectories.build_tfds({'train': [LOST]}, tmp_path, version='1.9.0')
  assert trajectories.read_tfds(tmp_path) == [WON]   # newest, not last built


def test_card_counts():
  card = trajectories.card(EPISODES)
  assert (card['episodes'], card['transitions'], card['successes']) == (3, 5, 1)
  assert card['seeds'] == [3, 9]
  assert card['invalid_actions'] == card['with_reasoning'] == 1
  assert card['by_family'] == {
      'login': {'episodes': 2, 'transitions': 5, 'successes': 1},
      'scroll': {'episodes': 1, 'transitions': 0, 'successes': 0}}
  assert card['by_success']['failure'] == {
      'episodes': 2, 'transitions': 2, 'successes': 0}
  assert set(card['by_behaviour']) == {'policy', 'near_miss', 'random'}
  assert trajectories.card([])['seeds'] == []
