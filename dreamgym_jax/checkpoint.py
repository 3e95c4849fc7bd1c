"""What a run leaves in its workdir, so that the same command again resumes.

    <dir>/<step>/arrays/       the pytree, by Orbax (v1)
    <dir>/<step>/host.json     the rest: replay texts, task pool, cursors
    <dir>/<step>/digests.json  of every file above; shapes of the arrays
    <workdir>/config.json      what the run was started with
    <workdir>/stages/<name>.json  the result of each stage that is done

A checkpoint is written beside its place and moved there whole, so one that is
there is complete; what is damaged afterwards is told by its digests.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from dreamgym_jax import distributed

_ARRAYS, _HOST, _DIGESTS = 'arrays', 'host.json', 'digests.json'
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
  """A file is damaged, or does not belong to this run; names it."""


class Restored(NamedTuple):
  step: int
  arrays: Any
  host: dict


class Checkpointer:
  """Numbered checkpoints in a directory, of which the newest `keep` stay."""

  def __init__(self, directory: str | os.PathLike, keep: int = 2):
    if keep < 1:
      raise ValueError(f'keep must be at least 1, got {keep}')
    self._dir = pathlib.Path(directory).absolute()
    self._keep = keep
    self._thread = futures.ThreadPoolExecutor(1)
    self._begun: futures.Future | None = None

  def steps(self) -> list[int]:
    """The steps of the checkpoints that are there, oldest first."""
    return sorted(int(d.name) for d in self._dir.glob('*')
                  if d.name.isdecimal() and d.is_dir())

  def save(self, step: int, arrays: Any, host: Mapping[str, Any]) -> None:
    """Writes a checkpoint; one of the same step is replaced.

    arrays: pytree of jax or numpy arrays, typed keys among them.
    host: JSON-able. All processes call this; the first one writes `host`.
    Raises CheckpointError for arrays without elements: Orbax hangs on them.
    """
    self.begin(step, arrays, host)
    self.wait()

  def begin(self, step: int, arrays: Any, host: Mapping[str, Any]) -> None:
    """As `save`, but arrays are written while the program goes on.

    The checkpoint is put in its place as soon as it is whole; after `wait`, or
    when the next one begins, it is there, or what went wrong is raised.
    """
    self.wait()
    leaves = _leaves(arrays)
    empty = [k for k, (shape, _) in leaves.items() if 0 in shape]
    if empty:
      raise CheckpointError(f'arrays without elements: {", ".join(empty)}')
    partial = self._dir / f'{step}.partial'
    if distributed.is_first():
      for left_over in self._dir.glob('*.partial'):   # of a run that died
        shutil.rmtree(left_over)
      partial.mkdir(parents=True)
      write_json_atomic(partial / _HOST, dict(host))
    distributed.barrier(f'checkpoint {step} begun')
    if jax.default_backend() == 'cpu':
      # Nothing is copied to the host there: the next update may take the
      # donated buffers, and they be written with what it made of them.
      arrays = jax.tree.map(lambda x: x.copy(), arrays)
    response = ocp.save_async(partial / _ARRAYS, arrays)
    self._begun = self._thread.submit(self._end, partial, leaves, response)

  def wait(self) -> None:
    """Until what `begin` began is in its place. All processes call this."""
    if not self._begun:
      return
    begun, self._begun = self._begun, None
    begun.result()
    distributed.barrier('checkpoint saved')

  def _end(
      self, partial: pathlib.Path, leaves: dict, response: ocp.AsyncResponse
  ) -> None:
    """Waits for the arrays; the first process seals the checkpoint."""
    response.result()
    if not distributed.is_first():
      return
    write_json_atomic(partial / _DIGESTS, {
        'files': _digests(partial), 'arrays': leaves})
    final = partial.with_suffix('')
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in self.steps()[:-self._keep]:
      shutil.rmtree(self._dir / str(old))

  def restore(self, example: Any = None) -> Restored | None:
    """The newest sound checkpoint; None if there is none.

    example: a pytree of arrays (or ShapeDtypeStructs) that gives structure,
    shapes and shardings, whatever devices it was saved from; without one,
    nested dicts and lists as saved, each array whole on the first device.
    Damaged ones are logged, set aside as `<step>.damaged`, and the one before
    is used.
    Raises CheckpointError for a sound one that does not fit the example:
    starting over in silence would lose the run.
    """
    self.wait()
    for step in reversed(self.steps()):
      path = self._dir / str(step)
      damage = _damage(path)
      distributed.barrier(f'checkpoint {step} checked')
      if damage:
        _log.warning('checkpoint %s is damaged (%s): using the one before',
                     path, damage)
        if distributed.is_first():
          self._set_aside(path)
        continue
      _check_fits(path, example)
      arrays = ocp.load(
          path / _ARRAYS, _here(path) if example is None else example)
      return Restored(step, arrays, read_json(path / _HOST))
    return None

  def _set_aside(self, path: pathlib.Path) -> None:
    aside = path.with_name(f'{path.name}.damaged')
    try:
      shutil.rmtree(aside, ignore_errors=True)
      os.replace(path, aside)
    except OSError as e:   # e.g. a workdir that may only be read
      _log.warning('cannot set %s aside: %s', path, e)


def _digests(path: pathlib.Path) -> dict[str, str]:
  out = {}
  for file in sorted(path.rglob('*')):
    if file.is_file() and file.name != _DIGESTS:
      with file.open('rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest()
      out[str(file.relative_to(path))] = digest
  return out


def _damage(path: pathlib.Path) -> str:
  """What is wrong with a checkpoint; '' if nothing is."""
  try:
    recorded = read_json(path / _DIGESTS)['files']
    actual = _digests(path)
  except (CheckpointError, OSError, KeyError, TypeError) as e:
    return f'{type(e).__name__}: {e}'
  bad = [f for f, digest in recorded.items() if actual.get(f) != digest]
  return f'changed or missing: {", ".join(bad[:3])}' if bad else ''


def _check_fits(path: pathlib.Path, example: Any) -> None:
  if example is None:
    return
  saved = read_json(path / _DIGESTS)['arrays']
  wanted = _leaves(example)
  differing = sorted(k for k in saved.keys() | wanted.keys()
                     if saved.get(k) != wanted.get(k))
  if differing:
    k = differing[0]
    raise CheckpointError(
        f'{path} does not fit this model: {len(differing)} arrays differ, '
        f'first {k}: saved {saved.get(k)}, wanted {wanted.get(k)}; '
        'use the config it was made with, or another --workdir')


def _here(path: pathlib.Path) -> Any:
  """The arrays of a checkpoint as an example: its devices may be gone."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def place(leaf):
    is_numpy = not hasattr(leaf, 'sharding_metadata')
    return leaf if is_numpy else jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=device)

  return jax.tree.map(place, ocp.metadata(path / _ARRAYS).metadata)


def _leaves(tree: Any) -> dict[str, list]:
  """Path -> [shape, dtype] of every array, as JSON gives it back."""
  out = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if not hasattr(leaf, 'dtype'):
      leaf = np.asarray(leaf)
    out[jax.tree_util.keystr(path)] = [list(leaf.shape), str(leaf.dtype)]
  return out


def write_json_atomic(
    path: str | os.PathLike, obj: Any, allow_nan: bool = True
) -> None:
  """Replaces the file as a whole; numpy scalars become plain numbers.

  With allow_nan=False a NaN raises ValueError: it is no JSON, and other
  readers refuse it.
  """
  path = pathlib.Path(path)
  text = json.dumps(obj, indent=1, default=_plain, allow_nan=allow_nan) + '\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.{os.getpid()}')
  with partial.open('w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())   # else a power cut can leave an empty file in place
  os.replace(partial, path)


def read_json(path: str | os.PathLike) -> Any:
  """Raises CheckpointError naming the file if it is not JSON."""
  try:
    return json.loads(pathlib.Path(path).read_bytes())
  except ValueError as e:
    raise CheckpointError(f'{path} is not JSON: {e}') from e


def _plain(value: Any) -> Any:
  if isinstance(value, np.generic):
    return value.item()
  raise TypeError(f'{type(value).__name__} is not JSON-able: {value!r:.60}')


class Stages:
  """Which stages of a run are done, and what came out of them."""

  def __init__(
      self, workdir: str | os.PathLike, config: Mapping[str, Any],
      ignore: Sequence[str] = (),
  ):
    """Opens or starts a workdir.

    Raises CheckpointError if it was started with another config; keys that
    begin with one of `ignore` may differ.
    """
    self._dir = pathlib.Path(workdir) / 'stages'
    flat = _flat(json.loads(json.dumps(config, default=_plain)))
    flat = {k: v for k, v in sorted(flat.items())
            if not k.startswith(tuple(ignore))}
    record = {'hash': config_hash(flat), 'config': flat}
    path = pathlib.Path(workdir) / 'config.json'
    if distributed.is_first() and not path.exists():
      write_json_atomic(path, record)
    distributed.barrier('workdir opened')
    if not all(distributed.gather('workdir seen', path.exists())):
      raise CheckpointError(
          f'{path}: the first process wrote it, and others do not see it; '
          '--workdir must be one, on a disk that all processes see')
    old = read_json(path)
    if old['hash'] == record['hash']:
      return
    old = {k: v for k, v in old['config'].items()
           if not k.startswith(tuple(ignore))}
    differing = [
        f'{k}: {json.dumps(old.get(k))} there, {json.dumps(flat.get(k))} now'
        for k in sorted(old.keys() | flat.keys()) if old.get(k) != flat.get(k)]
    if differing:
      raise CheckpointError(
          f'{workdir} was started with another config, and is kept as it is:\n'
          + '\n'.join(f'  {d}' for d in differing)
          + '\nResume with the old values, or give another --workdir.')

  def is_done(self, name: str) -> bool:
    """A result that does not read counts as not done, with a warning."""
    path = self._path(name)
    if not path.exists():
      return False
    try:
      return 'result' in read_json(path)
    except CheckpointError as e:
      _log.warning('stage %s is done again: %s', name, e)
      return False

  def result(self, name: str) -> Any:
    """What `finish` was given; raises CheckpointError if it never was."""
    return self._read(name)['result']

  def seconds(self, name: str) -> float:
    return self._read(name)['seconds']

  def finish(self, name: str, result: Any, seconds: float) -> None:
    """Marks a stage done. result: JSON-able. All processes call this."""
    if distributed.is_first():
      write_json_atomic(self._path(name), {
          'stage': name, 'seconds': round(seconds, 3), 'result': result,
          'finished': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())})
    distributed.barrier(f'stage {name} done')

  def _path(self, name: str) -> pathlib.Path:
    return self._dir / f'{name}.json'

  def _read(self, name: str) -> dict:
    if not self._path(name).exists():
      raise CheckpointError(f'stage {name} is not done in {self._dir.parent}')
    return read_json(self._path(name))


def config_hash(config: Mapping[str, Any]) -> str:
  """16 hex digits; the same for the same values, whatever their order."""
  text = json.dumps(config, sort_keys=True, default=_plain)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    if isinstance(value, dict) and value:
      out |= _flat(value, f'{prefix}{key}.')
    else:
      out[f'{prefix}{key}'] = value
  return out
