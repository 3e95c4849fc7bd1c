"""A chat model behind an OpenAI-compatible endpoint, each question asked once.

Owns the connection, the answers on disk and the count of what they cost. Any
server of `/chat/completions` will do: vLLM, SGLang, llama.cpp, a provider. The
`openai` package does the HTTP: time-outs, and retries of 408, 409, 429, 5xx
and lost connections, after `Retry-After` where the server names up to two
minutes (it gives up where it names more), else with exponential back-off and
jitter. It is optional: requirements-teacher.txt.

An answer is on disk, under the hash of model, messages and sampling
parameters, before anybody sees it. So whoever is interrupted starts over and
pays for nothing twice, and what an answer cost is never forgotten.
"""

import hashlib
import json
import logging
import os
import pathlib
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

Message = Mapping[str, str]      # {'role': ..., 'content': ...}
LIMITS = ('max_tokens', 'max_completion_tokens')
# What a server says of one question, not of itself or of who asks.
_REFUSALS = (400, 413, 422)
_MIN_KEY = 12
_Item, _Result = TypeVar('_Item'), TypeVar('_Result')
_log = logging.getLogger(__name__)


class EndpointError(RuntimeError):
  """The endpoint cannot be used; says which it is and what to do."""


class RefusedError(EndpointError):
  """The endpoint works and refuses this question, e.g. as too long."""


class Settings(NamedTuple):
  """Where to ask, and how."""

  base_url: str                # e.g. 'http://localhost:8000/v1'
  model: str
  key_env: str = ''            # environment variable of the key; '' = no key
  temperature: float = 0.0
  max_tokens: int = 2048       # of one answer
  limit: str = LIMITS[0]       # what the endpoint calls that
  use_json_mode: bool = True   # ask the endpoint itself for JSON
  timeout: float = 120.0       # seconds without a byte, of one request
  retries: int = 6             # of one request
  workers: int = 8             # requests of one `map` at once
  prompt_price: float = 0.0    # $ for a million tokens
  completion_price: float = 0.0


class Answer(NamedTuple):
  """What the model wrote, and the tokens it was charged for."""

  text: str
  is_cut: bool = False         # it reached max_tokens
  prompt_tokens: int = -1      # -1 where the endpoint does not say
  completion_tokens: int = -1


class Usage(NamedTuple):
  """Sums over answers; a hit is an answer that was there already."""

  calls: int = 0
  cache_hits: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  unmetered: int = 0           # calls whose tokens the endpoint did not say

  def plus(self, answer: Answer) -> 'Usage':
    """With one more call."""
    is_metered = min(answer.prompt_tokens, answer.completion_tokens) >= 0
    return self._replace(
        calls=self.calls + 1,
        prompt_tokens=self.prompt_tokens + max(answer.prompt_tokens, 0),
        completion_tokens=(
            self.completion_tokens + max(answer.completion_tokens, 0)),
        unmetered=self.unmetered + (not is_metered))

  def dollars(self, prompt_price: float, completion_price: float) -> float:
    """$ at prices for a million tokens; without what was not metered."""
    return (self.prompt_tokens * prompt_price
            + self.completion_tokens * completion_price) / 1e6


class Endpoint:
  """Asks one model; may be used from many threads. Owns the connections.

  Args:
    settings: where and how.
    cache: directory of the answers, made when needed. `usage` starts with what
      those that are there cost.

  Raises:
    EndpointError: the package is missing, the key is, or the settings are bad.
  """

  def __init__(self, settings: Settings, cache: str | os.PathLike):
    self.settings = settings
    self._cache = pathlib.Path(cache)
    self._key = _read_key(settings)
    self._client = _connect(settings, self._key)
    self._parameters = {'temperature': settings.temperature,
                        settings.limit: settings.max_tokens}
    if settings.use_json_mode:
      self._parameters['response_format'] = {'type': 'json_object'}
    self._lock = threading.Lock()
    self._asking: dict[str, threading.Lock] = {}
    self._usage = read_usage(self._cache)

  @property
  def usage(self) -> Usage:
    """All that the cache's answers cost, and the hits since this was made."""
    return self._usage

  @property
  def dollars(self) -> float:
    return self._usage.dollars(
        self.settings.prompt_price, self.settings.completion_price)

  def ask(self, messages: Sequence[Message]) -> Answer:
    """The model's answer, from the cache if it was ever asked the same.

    The same question asked by two threads at once is asked once.

    Raises:
      RefusedError: for this question alone.
      EndpointError: after all retries, or at once where they would not help.
    """
    messages = [{k: _encodable(v) for k, v in m.items()} for m in messages]
    name = _digest([self.settings.model, messages, self._parameters])
    path = self._cache / f'{name}.json'
    with self._lock:
      asking = self._asking.setdefault(name, threading.Lock())
    with asking:
      answer = _recall(path)
      if answer is None:
        answer = self._request(messages)
        _write(path, answer)
        with self._lock:
          self._usage = self._usage.plus(answer)
      else:
        with self._lock:
          self._usage = self._usage._replace(
              cache_hits=self._usage.cache_hits + 1)
    return answer

  def map(
      self, function: Callable[[_Item], _Result], items: Iterable[_Item],
      on_done: Callable[[_Result], None] = lambda result: None,
  ) -> list[_Result]:
    """function of each item in threads, `workers` at once; in order.

    on_done is called with each result as it comes. The first exception, the
    user's interrupt too, leaves out what has not begun and is raised when the
    rest has ended and its answers are kept.
    """
    with futures.ThreadPoolExecutor(self.settings.workers) as pool:
      pending = [pool.submit(function, item) for item in items]
      try:
        for one in futures.as_completed(pending):
          on_done(one.result())
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [one.result() for one in pending]

  def close(self) -> None:
    self._client.close()

  def _request(self, messages: list[dict[str, str]]) -> Answer:
    import openai
    s = self.settings
    where = f'{s.base_url} ({s.model})'
    try:
      completion = self._client.chat.completions.create(
          model=s.model, messages=messages, **self._parameters)
    except (openai.OpenAIError, ValueError) as error:
      status = getattr(error, 'status_code', None)
      kind = RefusedError if status in _REFUSALS else EndpointError
      # Without the cause: its request holds the key.
      raise kind(f'{where}: {self._without_key(str(error))[:300]}'
                 f'{_advice(status, s)}') from None
    try:
      choice, usage = completion.choices[0], completion.usage
      text = choice.message.content or ''
      if not isinstance(text, str):
        raise TypeError
      tokens = (-1, -1) if usage is None else (
          int(usage.prompt_tokens), int(usage.completion_tokens))
      return Answer(self._without_key(text), choice.finish_reason == 'length',
                    *tokens)
    except (AttributeError, IndexError, TypeError, ValueError):
      told = self._without_key(repr(completion))[:200]
      raise EndpointError(f'{where}: no chat completion, but {told}; is '
                          'base_url the part before /chat/completions?'
                          ) from None

  def _without_key(self, text: str) -> str:
    """Some servers say the key that they refuse.

    A short one is a placeholder such as EMPTY, and may be an honest word.
    """
    is_secret = len(self._key) >= _MIN_KEY
    return text.replace(self._key, '<key>') if is_secret else text


def ask_again(
    messages: Sequence[Message], answer: Answer, problem: str
) -> list[Message]:
  """A question after an unusable answer.

  It is a new one, so the cache does not give the same answer back.
  """
  return [*messages,
          {'role': 'assistant', 'content': answer.text or '(nothing)'},
          {'role': 'user', 'content':
           f'That answer cannot be used: {problem}. Answer again.'}]


def read_usage(cache: str | os.PathLike) -> Usage:
  """What the answers in a cache cost when they were asked for."""
  usage = Usage()
  for path in pathlib.Path(cache).glob('*.json'):
    if answer := _recall(path):
      usage = usage.plus(answer)
  return usage


def _read_key(settings: Settings) -> str:
  """The key; '' where none is needed."""
  name = settings.key_env
  if not name:
    return ''
  key = os.environ.get(name, '').strip()
  if not key:
    raise EndpointError(
        f'{name} is not set: export {name}=... with the key for '
        f"{settings.base_url}, or set key_env='' if it needs none")
  if not (key.isascii() and key.isprintable()):
    raise EndpointError(f'{name} holds what cannot be in a key')
  return key


def _connect(settings: Settings, key: str) -> Any:
  try:
    url = urllib.parse.urlsplit(settings.base_url)
    is_url = url.scheme in ('http', 'https') and bool(url.hostname)
  except ValueError:
    is_url = False
  if '@' in settings.base_url:
    raise EndpointError('base_url holds a password: put the key into the '
                        'environment, and the name of the variable in key_env')
  if not is_url:
    raise EndpointError(f'base_url={settings.base_url!r}: want e.g. '
                        'http://localhost:8000/v1')
  if not settings.model:
    raise EndpointError(f"model='': name one that {settings.base_url} serves")
  if settings.limit not in LIMITS:
    raise EndpointError(f'limit={settings.limit!r}: choose from {LIMITS}')
  try:
    import openai
  except ImportError as error:
    raise EndpointError(
        'an endpoint needs the package openai: pip install -r '
        f'requirements-teacher.txt ({error})') from None
  return openai.OpenAI(
      base_url=settings.base_url, api_key=key or 'none',
      timeout=settings.timeout, max_retries=settings.retries)


def _advice(status: int | None, settings: Settings) -> str:
  """What to do about an error of this status."""
  if status in (401, 403):
    return f'; look at the key in {settings.key_env or "key_env (none set)"}'
  if status == 404:
    return '; look at base_url and model'
  if status in _REFUSALS:
    return ''
  return (f'; gave up after {settings.retries} retries. Answers so far are '
          'kept: the same command goes on')


def _encodable(text: str) -> str:
  # A page may hold lone surrogates, which UTF-8 refuses.
  return text.encode('utf-8', 'backslashreplace').decode()


def _digest(question: Any) -> str:
  text = json.dumps(question, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _recall(path: pathlib.Path) -> Answer | None:
  """The answer in a file; None, with a warning if there is a damaged one."""
  try:
    answer = Answer(**json.loads(path.read_bytes()))
    if [type(v) for v in answer] == [str, bool, int, int]:
      return answer
  except FileNotFoundError:
    return None
  except (TypeError, ValueError):
    pass
  _log.warning('%s is damaged: asking again', path)
  return None


def _write(path: pathlib.Path, answer: Answer) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(
      f'.{path.name}.{os.getpid()}.{threading.get_ident()}')
  with partial.open('w', encoding='ascii') as f:
    json.dump(answer._asdict(), f)
    f.flush()
    os.fsync(f.fileno())   # else a power cut can leave an empty file in place
  os.replace(partial, path)
