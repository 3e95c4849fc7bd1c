"""A real HTTP server of /v1/chat/completions for tests, on this machine."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http import server
from typing import Any, NamedTuple

from dreamgym_jax.data import endpoint


class Reply(NamedTuple):
  """What is sent back, in full."""

  status: int = 200
  body: Any = None
  headers: tuple[tuple[str, str], ...] = ()
  delay: float = 0.0       # seconds before it


class Seen(NamedTuple):
  """One request, as it came."""

  time: float
  path: str
  headers: dict[str, str]
  body: dict[str, Any]

  @property
  def texts(self) -> list[str]:
    return [m['content'] for m in self.body['messages']]


Respond = Callable[[Seen, int], Reply | str]


class ChatServer(server.ThreadingHTTPServer):
  """respond: (request, number from 0) -> the text of an answer, or a Reply."""

  def __init__(self, respond: Respond):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.respond = respond
    self.seen: list[Seen] = []
    self.at_once = self.most_at_once = 0
    self.lock = threading.Lock()

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_port}/v1'

  def settings(self, **changes: Any) -> endpoint.Settings:
    return endpoint.Settings(
        self.url, 'a-model', retries=2, timeout=5.0)._replace(**changes)


class _Handler(server.BaseHTTPRequestHandler):

  def do_POST(self):
    own: ChatServer = self.server
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    seen = Seen(time.monotonic(), self.path,
                {k.lower(): v for k, v in self.headers.items()}, body)
    with own.lock:
      number = len(own.seen)
      own.seen.append(seen)
      own.at_once += 1
      own.most_at_once = max(own.most_at_once, own.at_once)
    reply = own.respond(seen, number)
    reply = Reply(body=reply) if isinstance(reply, str) else reply
    time.sleep(reply.delay)
    with own.lock:
      own.at_once -= 1
    sent = reply.body
    if isinstance(sent, str):
      sent = completion(sent, seen)
    with contextlib.suppress(ConnectionError):   # the client gave up waiting
      self.send_response(reply.status)
      self.send_header('Content-Type', 'application/json')
      for name, value in reply.headers:
        self.send_header(name, value)
      self.end_headers()
      self.wfile.write(sent if isinstance(sent, bytes)
                       else json.dumps(sent).encode())

  def log_message(self, *args: Any) -> None:
    del args


def completion(text: str, seen: Seen, finish: str = 'stop') -> dict:
  """A token a word, in the prompt and in the answer."""
  n_prompt = sum(len(t.split()) for t in seen.texts)
  n_answer = len(text.split())
  return {
      'id': 'x', 'object': 'chat.completion', 'created': 0, 'model': 'a-model',
      'choices': [{'index': 0, 'finish_reason': finish,
                   'message': {'role': 'assistant', 'content': text}}],
      'usage': {'prompt_tokens': n_prompt, 'completion_tokens': n_answer,
                'total_tokens': n_prompt + n_answer}}


@contextlib.contextmanager
def serve(respond: Respond) -> Iterator[ChatServer]:
  own = ChatServer(respond)
  thread = threading.Thread(target=own.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield own
  finally:
    own.shutdown()
    thread.join()
    own.server_close()
