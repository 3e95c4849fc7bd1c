"""Episodes on disk: JSON lines, and TFDS in RLDS form without TensorFlow.

One line of JSON is one episode. What the reader can rebuild is not stored: a
state is the one before it led to, a next state is an edit (`text/states`), and
a field at its default is left out. Both formats give back the episodes that
were written, in order.

RLDS (Ramos et al., arXiv 2111.02767): an episode of n transitions has n + 1
steps, the last of which only observes; `reward` and `discount` are those of
taking `action` at the step.
"""

import contextlib
import dataclasses
import gzip
import json
import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.text import states
from dreamgym_jax.types import Episode, Task, Transition

Path = str | os.PathLike
VERSION = 1
_SOURCES = {'source': (types.REAL, types.DREAMED),
            'task.source': (types.REAL, types.GENERATED)}
# Transition fields that are stored as they are; states are implied or edits.
_PLAIN = tuple(f for f in dataclasses.fields(Transition)
               if f.name not in ('state', 'next_state'))
_IMPLIED = {'reward': 0.0, 'done': False}   # left out of a line, as defaults
_EPISODE = tuple(f for f in dataclasses.fields(Episode)
                 if f.name not in ('task', 'transitions'))
# RLDS records: name -> type. `done` is `discount` == 0 there.
_TASK = {f.name: f.type for f in dataclasses.fields(Task)}
_METADATA = {f.name: f.type for f in _EPISODE} | {'success': bool}
_STEP = {f.name: f.type for f in _PLAIN if f.name != 'done'} | {
    'observation': str, 'next_observation': str, 'discount': float,
    'is_first': bool, 'is_last': bool, 'is_terminal': bool}
_log = logging.getLogger(__name__)


class TrajectoryError(ValueError):
  """A file is not a set of episodes; names file, line and what is wrong."""


def write_jsonl(path: Path, episodes: Iterable[Episode]) -> int:
  """Replaces the file (.jsonl or .jsonl.gz) as a whole; gives the count."""
  lines = [_to_line(e) for e in episodes]
  _replace(pathlib.Path(path), b''.join(lines))
  return len(lines)


def append_jsonl(path: Path, episodes: Iterable[Episode]) -> int:
  """Adds to the file, or makes it; gives the count of episodes added.

  Plain files grow in place, and a line that a crash left unfinished is ended
  first so that it spoils no other. A .gz file is rewritten whole, since what
  follows a damaged member is lost; raises TrajectoryError if it is corrupt.
  """
  path = pathlib.Path(path)
  lines = [_to_line(e) for e in episodes]
  if path.name.endswith('.gz'):
    old = map(_to_line, read_jsonl(path)) if path.exists() else ()
    _replace(path, b''.join((*old, *lines)))
    return len(lines)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a+b') as f:
    f.seek(max(f.tell() - 1, 0))
    if f.read(1) not in (b'', b'\n'):
      f.write(b'\n')
    f.write(b''.join(lines))
  return len(lines)


def read_jsonl(
    path: Path,
    skip_corrupt: bool = False,
    report: Callable[[TrajectoryError], None] | None = None,
) -> list[Episode]:
  """Reads .jsonl or .jsonl.gz, in the order written.

  A line that is not an episode raises TrajectoryError. With skip_corrupt it is
  passed to `report` (default: a warning in the log) and left out, the number
  of such lines is logged, and every other line is kept.
  """
  path = pathlib.Path(path)
  report = report or (lambda e: _log.warning('%s', e))
  episodes, num_corrupt = [], 0
  for number, line, damage in _lines(path):
    try:
      if damage:
        raise TrajectoryError(damage)
      if line.strip():
        episodes.append(_from_line(line))
    except TrajectoryError as e:
      if not skip_corrupt:
        raise TrajectoryError(f'{path}, line {number}: {e}') from e
      num_corrupt += 1
      report(TrajectoryError(f'{path}, line {number}: {e}'))
  if num_corrupt:
    _log.warning('%s: skipped %d corrupt lines, kept %d episodes',
                 path, num_corrupt, len(episodes))
  return episodes


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes, str]]:
  """(number from 1, line, damage); damage ends a file cut short in gzip."""
  number = 0
  with (gzip.open if path.name.endswith('.gz') else open)(path, 'rb') as f:
    try:
      for number, line in enumerate(f, 1):
        yield number, line, ''
    except (OSError, EOFError, zlib.error) as e:
      yield number + 1, b'', f'damaged gzip, the rest is lost: {e}'


def _replace(path: pathlib.Path, data: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.name.endswith('.gz'):
    data = gzip.compress(data, mtime=0)   # the same episodes, the same bytes
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_bytes(data)
  os.replace(temporary, path)


def _changed(values: Any, fields: Iterable[dataclasses.Field]) -> dict:
  """The fields that differ from their default (all that have none)."""
  out = {}
  for field in fields:
    value = getattr(values, field.name)
    default = _IMPLIED.get(field.name, field.default)
    # Compared by type too: True == 1.0, and the reader checks types.
    if value != default or type(value) is not type(default):
      out[field.name] = value
  return out


def _edit(old: str, new: str) -> dict:
  """The next state as an edit; in full where no edit gives it exactly."""
  with contextlib.suppress(states.StateError):
    edit = states.diff(old, new)
    if states.apply(old, edit) == new:
      return {} if edit == states.SAME else {'edit': edit}
  return {'next_state': new}


def _to_line(episode: Episode) -> bytes:
  steps, state = [], episode.task.initial_state
  for transition in episode.transitions:
    step = _changed(transition, _PLAIN)
    if transition.state != state:
      step['state'] = transition.state
    step |= _edit(transition.state, transition.next_state)
    steps.append(step)
    state = transition.next_state
  record = {'version': VERSION, **_changed(episode, _EPISODE),
            'task': _changed(episode.task, dataclasses.fields(Task)),
            'steps': steps}
  try:
    text = json.dumps(record, separators=(',', ':'), allow_nan=False)
    line = text.encode('ascii') + b'\n'
    if _from_line(line) == episode:   # nothing is lost without a word
      return line
    raise ValueError('would not read back as it is')
  except (TypeError, ValueError) as e:
    raise TrajectoryError(f'episode {episode.episode_id!r}: {e}') from e


def _from_line(line: bytes) -> Episode:
  try:
    record = json.loads(line, parse_constant=_no_constant)
  except (ValueError, RecursionError) as e:
    raise TrajectoryError(f'not JSON: {e}') from e
  if not isinstance(record, dict) or record.pop('version', None) != VERSION:
    raise TrajectoryError(f'no object of version {VERSION}: {line[:40]!r}')
  task = Task(**_typed(
      _take(record, 'task', dict), dataclasses.fields(Task), 'task.'))
  steps = _take(record, 'steps', list)
  transitions, state = [], task.initial_state
  for i, step in enumerate(steps):
    where = f'steps[{i}].'
    if not isinstance(step, dict):
      raise TrajectoryError(f'{where[:-1]} is not an object')
    state = _take(step, 'state', str, state)
    try:
      after = _take(step, 'next_state', str) if 'next_state' in step else (
          states.apply(state, _take(step, 'edit', str, states.SAME)))
    except states.StateError as e:
      raise TrajectoryError(f'{where}edit: {e}') from e
    plain = _typed(_IMPLIED | step, _PLAIN, where)
    transitions.append(Transition(state=state, next_state=after, **plain))
    state = after
  return Episode(task=task, transitions=tuple(transitions),
                 **_typed(record, _EPISODE, ''))


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is not a number')


def _take(record: dict, key: str, kind: type, default: Any = None) -> Any:
  value = record.pop(key, default)
  if not isinstance(value, kind):
    raise TrajectoryError(f'{key}: want {kind.__name__}, got {value!r:.40}')
  return value


def _typed(
    record: Mapping[str, Any], fields: Sequence[dataclasses.Field], where: str
) -> dict[str, Any]:
  """Checks names, presence, types and sources of the fields of a record."""
  unknown = set(record) - {f.name for f in fields}
  if unknown:
    raise TrajectoryError(f'unknown fields {where}{sorted(unknown)}')
  out = {}
  for field in fields:
    name = where + field.name
    if field.name not in record:
      if field.default is dataclasses.MISSING:
        raise TrajectoryError(f'{name} is missing')
      continue
    value = record[field.name]
    if field.type is float and type(value) is int and abs(value) < 2 ** 53:
      value = float(value)
    if type(value) is not field.type:
      raise TrajectoryError(
          f'{name}: want {field.type.__name__}, got {value!r:.40}')
    if name in _SOURCES and value not in _SOURCES[name]:
      raise TrajectoryError(
          f'{name}: want one of {_SOURCES[name]}, got {value!r:.40}')
    out[field.name] = value
  return out


def build_tfds(
    episodes_by_split: Mapping[str, Sequence[Episode]],
    data_dir: Path,
    name: str = 'dreamgym_web',
    version: str = '1.0.0',
    card: Mapping[str, Any] = MappingProxyType({}),
    overwrite: bool = False,
) -> pathlib.Path:
  """Writes data_dir/name/version as array_record; gives that directory.

  Floats become float32. `card` (JSON-able, see `card()`) is the metadata.
  Raises TrajectoryError for an empty split, and for a version that exists
  already unless it may be overwritten.
  """
  import tensorflow_datasets as tfds
  empty = [s for s, episodes in episodes_by_split.items() if not episodes]
  if empty or not episodes_by_split:
    raise TrajectoryError(f'no episodes in splits {empty or "(none given)"}')
  target = pathlib.Path(data_dir) / name / version
  if target.exists():
    if not overwrite:
      raise TrajectoryError(f'{target} exists; give another version')
    shutil.rmtree(target)
  dataset_name, dataset_version = name, tfds.core.Version(version)

  # Made inside, since the import is lazy; not registered, since any name goes.
  with tfds.core.registered.skip_registration():

    class Builder(tfds.core.GeneratorBasedBuilder):
      name = dataset_name
      VERSION = dataset_version
      url_infos = MappingProxyType({})   # nothing is downloaded, so no look-up

      def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=_features(tfds),
            disable_shuffling=True,   # integer keys keep the order written
            description='Episodes of text web tasks, in RLDS form.',
            metadata=tfds.core.MetadataDict(card=dict(card)))

      def _split_generators(self, dl_manager):
        return {split: self._generate_examples(episodes)
                for split, episodes in episodes_by_split.items()}

      def _generate_examples(self, episodes):
        yield from enumerate(map(_to_rlds, episodes))

  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(None):
    builder = Builder(data_dir=data_dir, file_format='array_record')
    builder.download_and_prepare()
  return target


def read_tfds(
    data_dir: Path, name: str = 'dreamgym_web', split: str = 'train'
) -> list[Episode]:
  """The episodes of one split of the newest version, in the order written.

  Raises TrajectoryError if there is no such dataset or split.
  """
  import tensorflow_datasets as tfds
  root = pathlib.Path(data_dir) / name
  versions = [d for d in root.glob('*') if (d / 'dataset_info.json').exists()]
  if not versions:
    raise TrajectoryError(f'no TFDS dataset in {root}')
  newest = max(versions, key=lambda d: tuple(map(int, d.name.split('.'))))
  builder = tfds.builder_from_directory(newest)
  if split not in builder.info.splits:
    raise TrajectoryError(
        f'{newest} has splits {sorted(builder.info.splits)}, not {split!r}')
  return [_from_rlds(e) for e in builder.as_data_source(split)]


def _features(tfds: Any) -> Any:
  kinds = {str: tfds.features.Text(), int: np.int64, bool: np.bool_,
           float: np.float32}
  step, metadata, task = ({k: kinds[kind] for k, kind in record.items()}
                          for record in (_STEP, _METADATA, _TASK))
  return tfds.features.FeaturesDict({
      'steps': tfds.features.Dataset(step),
      'episode_metadata': {**metadata, 'task': task}})


def _to_rlds(episode: Episode) -> dict[str, Any]:
  transitions = episode.transitions
  steps = [{
      **{f.name: getattr(t, f.name) for f in _PLAIN if f.name != 'done'},
      'observation': t.state, 'next_observation': t.next_state,
      'discount': float(not t.done), 'is_first': i == 0, 'is_last': False,
      'is_terminal': False} for i, t in enumerate(transitions)]
  is_over = bool(transitions) and transitions[-1].done
  last = {k: kind() for k, kind in _STEP.items()}
  last |= {
      'observation': (transitions[-1].next_state if transitions
                      else episode.task.initial_state),
      'discount': float(not is_over), 'is_first': not transitions,
      'is_last': True, 'is_terminal': is_over, 'success_prob': -1.0}
  metadata = {k: getattr(episode, k) for k in _METADATA}
  metadata = _encoded(metadata) | {'task': _encoded(vars(episode.task))}
  return {'steps': [_encoded(s) for s in (*steps, last)],
          'episode_metadata': metadata}


def _from_rlds(record: Mapping[str, Any]) -> Episode:
  metadata = _decoded(record['episode_metadata'], _METADATA)
  metadata.pop('success')
  transitions = []
  for step in list(record['steps'])[:-1]:
    step = _decoded(step, _STEP)
    transitions.append(Transition(
        state=step['observation'], next_state=step['next_observation'],
        done=step['discount'] == 0,
        **{f.name: step[f.name] for f in _PLAIN if f.name != 'done'}))
  task = Task(**_decoded(record['episode_metadata']['task'], _TASK))
  return Episode(task=task, transitions=tuple(transitions), **metadata)


def _encoded(record: Mapping[str, Any]) -> dict[str, Any]:
  # A page may hold lone surrogates, which plain UTF-8 refuses.
  return {k: v.encode('utf-8', 'surrogatepass') if isinstance(v, str) else v
          for k, v in record.items()}


def _decoded(record: Mapping[str, Any], kinds: Mapping[str, type]) -> dict:
  return {k: record[k].decode('utf-8', 'surrogatepass') if kind is str
          else kind(record[k]) for k, kind in kinds.items()}


def card(episodes: Sequence[Episode]) -> dict[str, Any]:
  """Counts for people: by behaviour, family, source and success; seeds."""
  seeds = [e.task.seed for e in episodes if e.task.seed >= 0]
  steps = [t for e in episodes for t in e.transitions]

  def count_by(key: Callable[[Episode], str]) -> dict[str, dict[str, int]]:
    return {k: _count([e for e in episodes if key(e) == k])
            for k in sorted({key(e) for e in episodes})}

  return {
      'version': VERSION,
      **_count(episodes),
      'invalid_actions': sum(t.is_invalid for t in steps),
      'with_reasoning': sum(bool(t.reasoning) for t in steps),
      'malformed_episodes': sum(e.is_malformed for e in episodes),
      'episodes_with_errors': sum(bool(e.error) for e in episodes),
      'seeds': [min(seeds), max(seeds)] if seeds else [],
      'by_behaviour': count_by(lambda e: e.behaviour),
      'by_family': count_by(lambda e: e.task.family),
      'by_source': count_by(lambda e: e.source),
      'by_annotator': count_by(lambda e: e.annotator or 'unnamed'),
      'by_success': count_by(lambda e: ('failure', 'success')[e.success])}


def _count(episodes: Sequence[Episode]) -> dict[str, int]:
  return {'episodes': len(episodes),
          'transitions': sum(len(e.transitions) for e in episodes),
          'successes': sum(e.success for e in episodes)}
