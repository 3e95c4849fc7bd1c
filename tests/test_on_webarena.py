"""Every stage of main on WebArena's own tasks; only the sites are made up.

One local server stands for all sites. Tasks, log-in, evaluators, browser and
the accessibility tree are the real ones, through BrowserGym.
"""

import contextlib
import http.server
import json
import threading

import pytest

from configs import webarena_lite
from dreamgym_jax import config, train, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import webarena_tasks
from dreamgym_jax.stages import domains

FAMILY, LITE = 'webarena-map', 'webarena-lite-map'
PAGE = b'''<title>Map</title><h1>Map</h1><p>It takes 51 minutes.</p>
<button onclick="document.querySelector('p').innerText='Gone'">Search</button>
'''


class Handler(http.server.BaseHTTPRequestHandler):

  def do_GET(self):
    self.send_response(200)
    self.send_header('content-type', 'text/html')
    self.end_headers()
    with contextlib.suppress(OSError):    # who asked may be gone
      self.wfile.write(PAGE)

  def log_message(self, *_):
    pass


@pytest.fixture(scope='module', autouse=True)
def sites(tmp_path_factory):
  """The WA_* addresses, all of one local server."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  # BrowserGym asks for NLTK's tokenizer when imported.
  data = tmp_path_factory.mktemp('nltk')
  (data / 'tokenizers' / 'punkt_tab').mkdir(parents=True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('NLTK_DATA', str(data))
    patch.setenv('PYTHONWARNINGS', 'ignore')
    for name in (*webarena_tasks.SITES, webarena_tasks.HOMEPAGE):
      patch.setenv(f'WA_{name.upper()}',
                   f'http://127.0.0.1:{server.server_port}')
    yield
  server.shutdown()


@pytest.fixture
def smoke():
  """The smallest config that plays every stage."""
  c = webarena_lite.get_config('smoke')
  c.env.families, c.env.held_out_families = (FAMILY,), (LITE,)
  c.env.rows = c.rl.tasks = c.rl.group = 2    # four browsers in training
  c.env.max_steps = 2
  # Tasks 10 to 13 are answered by `Yes`.
  c.env.train_seeds, c.env.gate_seeds = (10, 14), (22, 24)
  c.env.test_seeds = (34, 36)
  c.sampler.capacity, c.batch.length = 1_024, 1_024
  c.experience.max_new = c.rl.max_new = 24
  c.gate.pages = c.gate.remedy_pages = 2
  c.gate.remedies = 0
  c.dream.iterations = c.real_grpo.transitions = 1
  c.transfer.transitions = 4
  c.evaluate.pages = 2
  return c


def recorded(c, answer):
  """Somebody's real episodes of four training tasks: a search, an answer."""
  world, steps = domains.of(c).world(c)(), {}
  tasks = world.reset([types.Task(FAMILY, seed)
                       for seed in range(*c.env.train_seeds)])
  before = [task.initial_state for task in tasks]
  for action in ('click [3]', f'answer {answer}'):
    seen = world.step(range(len(tasks)), [action] * len(tasks))
    for i, o in enumerate(seen):
      steps.setdefault(i, []).append(types.Transition(
          before[i], action, o.state, o.reward, o.done, reasoning=action))
    before = [o.state for o in seen]
  world.close()
  return [types.Episode(task, tuple(steps[i]), types.REAL, 'person', str(i),
                        annotator='a person')
          for i, task in enumerate(tasks)]


def test_every_stage_on_its_own_tasks(smoke, tmp_path):
  episodes = recorded(smoke, 'Yes')
  assert all(e.success for e in episodes)
  assert 'text: Gone' in episodes[0].transitions[1].state
  given = tmp_path / 'given.jsonl.gz'
  trajectories.write_jsonl(given, episodes)
  smoke.collect.trajectories = str(given)
  train.main('run', smoke, tmp_path / 'run', 'abc', 'the command')
  ledger = json.loads((tmp_path / 'run' / 'summary.json').read_text())['ledger']
  judged = trajectories.read_jsonl(
      tmp_path / 'run' / 'episodes' / 'dream-sampled.jsonl.gz')
  assert [(e.task.family, e.task.seed) for e in judged] == [
      (FAMILY, 34), (FAMILY, 35), (LITE, 0), (LITE, 1)]
  assert not any(e.error for e in judged)
  # Eight steps were given; S2R was let take four.
  assert ledger['real_demo'] == 8 and ledger['real_online'] == 4
  assert 2 <= ledger['real_gate'] <= 4 and ledger['dreamed']


def test_without_recorded_episodes_it_says_so(smoke, tmp_path):
  with pytest.raises(config.ConfigError, match=r'collect\.trajectories'):
    train.main('run', smoke, tmp_path, 'abc', 'the command')


def test_episodes_without_reasons_need_a_teacher(smoke, tmp_path):
  step = types.Transition('text: a', 'answer Yes', 'over', 1., True)
  episode = types.Episode(types.Task(FAMILY, 10, 'Is it?', 'text: a'), (step,),
                          types.REAL, 'person', '0')
  given = tmp_path / 'given.jsonl'
  trajectories.write_jsonl(given, [episode])
  smoke.collect.trajectories = str(given)
  with pytest.raises(config.ConfigError, match=r'teacher\.base_url'):
    train.main('run', smoke, tmp_path / 'run', 'abc', 'the command')


def test_the_split_is_litess():
  """Every Lite task that reads is tested, and no page twice."""
  c = webarena_lite.get_config('scratch')
  tasks = [t for f in (*c.env.families, *c.env.held_out_families)
           for t in [types.Task(f, s) for s in domains.pages(c, f, 'test')]]
  lite = [t for t in tasks if webarena_tasks.is_lite(t.family)]
  assert len(lite) == 98
  assert not any(webarena_tasks.find(t).writes for t in tasks)
  c.arena.reset_command = ('./put_back.sh',)
  assert sum(len(domains.pages(c, f, 'test'))
             for f in c.env.held_out_families) == 165
  lots = domains.of(c).lots
  everything = [types.Task(f, s) for f in c.env.held_out_families
                for s in domains.pages(c, f, 'test')]
  assert sorted(i for lot in lots(everything) for i in lot) == list(
      range(165))


def test_families_without_pages_left_are_named():
  c = webarena_lite.get_config('scratch')
  c.env.families = ('webarena-reddit',)
  with pytest.raises(config.ConfigError, match='webarena-reddit has 7 pages'):
    domains.pages(c, 'webarena-reddit', 'gate')


def test_one_process_a_row_and_no_workers():
  c = webarena_lite.get_config('scratch')
  c.env.workers = 2
  with pytest.raises(config.ConfigError, match=r'env\.workers=2'):
    domains.of(c).world(c)


@pytest.mark.parametrize(('said', 'known'), [
    ('What is the zip code of Oxford University?', True),
    ('Make me a sandwich', False)])
def test_generated_tasks_are_of_a_template(said, known):
  assert webarena_tasks.accepts(types.Task(FAMILY, 0, said)) == known
