"""What is known about shopping tasks, in the generated shop and by hand."""

import collections
import dataclasses
import math

import numpy as np
import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, webshop, webshop_catalogue
from dreamgym_jax.envs import webshop_tasks as families
from dreamgym_jax.text import prompts, states

ASKED = ('Find me solid wood, non slip area rugs with color: red, and size: '
         'full, and price lower than 60.00 dollars')
RUG = 'Brandt Area Rugs Tide, Non Slip, Solid Wood, Wall Mounted'
OTHER = 'Brandt Area Rugs Tide, Non Slip, Hand Woven, Wall Mounted'
TOP = '[1] button: Back to Search\n[2] '
BAR = ('[8] text: Rating: N.A.\n[9] button: Description\n'
       '[10] button: Buy Now')
ITEM = (TOP + 'button: < Prev\n[3] text: color\n[4] radio: blue\n'
        '[5] radio: red\n[11] text: size\n[12] radio: full\n'
        f'[6] status: item = {RUG}\n[7] status: price = $45.5\n{BAR}')
TASK = types.Task('shop-garden', 0, ASKED, families.START)


def results(*links):
  lines = [f'[{i}] link: B0{i} {link}' for i, link in enumerate(links, 4)]
  return '\n'.join([TOP + 'text: Page 1 (Total results: 20)',
                    '[3] button: Next >', *lines])


@pytest.fixture(scope='module')
def world():
  return webshop.WebShop()


def play(world, task, act, row=0):
  """(transitions with R*, purchase) of one episode; `act(state, step)`."""
  steps, state = [], task.initial_state
  while not steps or not steps[-1].done:
    thought, action = act(state, len(steps))
    seen = world.step([row], [action])[0]
    step = types.Transition(state, action, seen.state, seen.reward, seen.done,
                            seen.is_invalid, thought=thought)
    steps.append(dataclasses.replace(
        step, reasoning=families.annotate(task, step)))
    state = seen.state
  return steps, world.purchases[row]


def explain(state, action, next_state, reward=0.0, task=TASK):
  return families.annotate(task, types.Transition(
      state, action, next_state, reward, next_state == states.OVER))


def test_the_expert_wins_two_hundred_goals(world):
  live = world.reset([types.Task(f, s) for f in sorted(families.FAMILIES)
                      for s in range(34)])
  assert len(live) >= 200
  played = [play(world, task, lambda s, n, t=task: families.advise(t, s), i)
            for i, task in enumerate(live)]
  assert np.mean([steps[-1].reward for steps, _ in played]) > .95
  for steps, purchase in played:
    assert len(steps) <= families.EXPERT_STEPS
    assert all(step.reasoning for step in steps)
    assert not any(step.is_invalid for step in steps)
    assert prompts.refutes(steps[-1].reasoning) == (
        purchase.score.reward < 1)


def test_what_no_visitor_could_know(world):
  """Lists and products, the first time; all else follows from the page."""
  task, = world.reset([types.Task('shop', 3)])
  steps = []
  for action in ('fill [1] rugs', 'click [2]', 'click [4]', 'click [4]',
                 'click [2]', 'click [4]', 'click [99]', 'click [1]'):
    state = steps[-1].next_state if steps else task.initial_state
    seen, = world.step([0], [action])
    steps.append(types.Transition(state, action, seen.state, 0., seen.done))
  episode = types.Episode(task, tuple(steps), types.REAL, '', 'e')
  assert [families.is_determined(episode, t) for t in range(len(steps))] == [
      True, False, False, True, True, True, True, True]


def test_tasks_that_were_made_up_are_judged_by_the_shop():
  """The same purchase wins at the price that it has, and not at ten dollars."""
  shop = webshop.WebShop(pose=families.pose)
  real, = shop.reset([types.Task('shop', 5)])
  steps, _ = play(shop, real, lambda s, n: families.advise(real, s))
  assert steps[-1].reward == 1.
  price = f'{shop.goals["shop"][5].price_upper:.2f}'
  for upper, wins in ((price, 1.), ('10.00', 0.)):
    made_up = dataclasses.replace(
        real, source=types.GENERATED, seed=-1,
        instruction=real.instruction.replace(price, upper))
    assert shop.reset([made_up]) == [made_up]
    seen = [shop.step([0], [s.action])[0] for s in steps]
    assert seen[-1].done and seen[-1].reward == wins
  with pytest.raises(webshop.EnvError, match='generated'):
    webshop.WebShop().reset([made_up])


@pytest.mark.parametrize('behaviour', behaviours.BEHAVIOURS)
def test_every_behaviour_is_annotated_and_verdicts_are_true(world, behaviour):
  """`annotate` agrees with the shop, or says nothing; here it always agrees."""
  ends = collections.Counter()
  live = world.reset([types.Task('shop', s) for s in range(60)])
  for i, task in enumerate(live):
    rng = np.random.default_rng((1, i))
    plan = behaviours.make_plan(rng, families.EXPERT_STEPS)

    def act(state, n, task=task, rng=rng, plan=plan):
      thought, wanted = families.carry_on(task, state)
      return thought, behaviours.choose(
          behaviour, wanted, state, task.instruction, rng, step=n, plan=plan)

    steps, purchase = play(world, task, act, i)
    assert all(step.reasoning for step in steps if prompts.is_wellformed(
        step.action))
    if purchase:
      assert prompts.refutes(steps[-1].reasoning) == (not steps[-1].reward)
    ends[steps[-1].reward if purchase else 'limit'] += 1
  if behaviour == behaviours.EXPERT:
    assert ends == {1.0: 60}
  elif behaviour == behaviours.NEAR_MISS:
    assert ends[0.0] >= 6 and ends[1.0] >= 20


def test_goals_are_read():
  goal = families.FAMILIES['shop-garden'].goal(ASKED)
  assert goal == families.Goal(
      'solid wood, non slip area rugs', 'area rugs', ('solid wood', 'non slip'),
      (('color', 'red'), ('size', 'full')), 60.)
  assert families.FAMILIES['shop'].goal(ASKED) == goal


@pytest.mark.parametrize('text, words, options, upper', [
    ('Find me easy install tv mounts', 'easy install tv mounts', (), math.inf),
    ('Find me slim fit shirts with cotton spandex with color: a b, and price '
     'lower than 20.00 dollars', 'slim fit shirts with cotton spandex',
     (('color', 'a b'),), 20.),
    ('Find me shirts with cotton, long sleeve with fit type: men, and color: x',
     'shirts with cotton, long sleeve', (('fit type', 'men'), ('color', 'x')),
     math.inf),
])
def test_wordings(text, words, options, upper):
  goal = families.FAMILIES['shop'].goal(text)
  assert (goal.words, goal.options, goal.price_upper) == (words, options, upper)


def test_every_goal_of_the_generated_catalogue_reads_back(world):
  for goal in world.goals['shop'][::5]:
    read = families.FAMILIES[f'shop-{goal.category}'].goal(goal.instruction)
    assert (read.query, read.attributes, read.price_upper) == (
        goal.query, goal.attributes, goal.price_upper)
    assert tuple(value for _, value in read.options) == goal.options


@pytest.mark.parametrize('state, thought, action', [
    (families.START, 'Search [1] need solid wood, non slip area rugs',
     'fill [1] solid wood, non slip area rugs'),
    (families.START.replace(
        '=', '= solid wood, non slip area rugs'),
     'finish Search [2]', 'click [2]'),
    (families.START.replace('=', '= rugs'),
     'Search [1] need solid wood, non slip area rugs',
     'fill [1] solid wood, non slip area rugs'),
    (results(f'{OTHER} $9.0', f'{RUG} $61.0', f'{RUG} $60.0'),
     'need $60.0 [6]', 'click [6]'),
    (results(f'{RUG} $59.0 to $61.0'), 'need $61.0 [4]', 'click [4]'),
    (results(f'{RUG} $60.5 to $61.0', f'{OTHER} $9.0'),
     'not here Next > [3]', 'click [3]'),
    (results().replace('[3] button: Next >', ''),
     'not found Back to Search [1]', 'click [1]'),
    (ITEM, 'color need red [5]', 'click [5]'),
    (ITEM.replace('red', 'red checked'), 'size need full [12]', 'click [12]'),
    (ITEM.replace('red', 'red checked').replace('full', 'full checked'),
     'finish Buy Now [10]', 'click [10]'),
    (ITEM.replace('red', 'redder').replace('full', 'full checked'),
     'finish Buy Now [10]', 'click [10]'),
    (ITEM.replace('45.5', '60.5'), 'not this < Prev [2]', 'click [2]'),
    (ITEM.replace(RUG, OTHER), 'not this < Prev [2]', 'click [2]'),
    (TOP + 'button: < Prev\n[3] text: A rug.', 'back < Prev [2]', 'click [2]'),
    ('[1] button: Submit', '', 'noop'),
    ('', '', 'noop'),
])
def test_advice(state, thought, action):
  state = '\n'.join(line for line in state.split('\n') if line)
  assert families.advise(TASK, state) == (thought, action)


def test_carrying_on_mends_nothing_on_an_item_page():
  blue = ITEM.replace('blue', 'blue checked').replace(RUG, OTHER)
  assert families.advise(TASK, blue)[1] == 'click [2]'
  assert families.carry_on(TASK, blue) == ('size need full [12]', 'click [12]')
  assert families.carry_on(TASK, blue.replace('full', 'full checked')) == (
      'finish Buy Now [10]', 'click [10]')
  assert families.carry_on(TASK, families.START) == families.advise(
      TASK, families.START)


def test_goods_of_no_generated_catalogue_are_taken_by_likeness():
  task = dataclasses.replace(
      TASK, instruction='Find me blue gadgets, and price lower than 9.00 '
      'dollars')
  page = results('Red Gadgets $3.0', 'Blue Gadgets $4.0', 'Blue Gadgets $10.0')
  assert families.advise(task, page) == ('need $4.0 [5]', 'click [5]')
  assert families.reads(task) and not families.accepts(task)


@pytest.mark.parametrize('state, verdict', [
    (ITEM.replace('red', 'red checked').replace('full', 'full checked'),
     'need area rugs have area rugs yes ; need solid wood have solid wood yes'
     ' ; need non slip have non slip yes ; color need red have red yes ; '
     'size need full have full yes ; '
     'price $45.5 need below 60.00 have below 60.00 yes'),
    (ITEM.replace('red', 'faded red checked').replace('45.5', '60.5')
     .replace(RUG, OTHER),
     'need area rugs have area rugs yes ; need solid wood have none no ; '
     'need non slip have non slip yes ; color faded red need red have red yes'
     ' ; size need full have none no ; '
     'price $60.5 need below 60.00 have above 60.00 no'),
])
def test_verdicts_and_silence_where_the_shop_disagrees(state, verdict):
  reward = 0. if verdict.endswith(' no') else 1.
  assert explain(state, 'click [10]', states.OVER, reward) == verdict
  assert explain(state, 'click [10]', states.OVER, 1 - reward) == ''
  assert prompts.refutes(verdict) == (reward == 0)


@pytest.mark.parametrize('state, action, after, why', [
    (families.START, 'click [9]', None, 'no such element'),
    (families.START, 'fill [2] x', None, 'button takes no fill'),
    (families.START, 'click [2]', None, 'nothing to search for'),
    (families.START, 'rubbish', None, 'no such element'),
    (families.START, 'hover [1]', families.START, 'nothing changes'),
    (families.START, 'noop', families.START, 'nothing changes'),
    (families.START, 'fill [1] x', families.START.replace('=', '= x'),
     'changes'),
    (families.START.replace('=', '= y'), 'fill [1] x',
     families.START.replace('=', '= x'), 'value replaced'),
    (families.START.replace('=', '= y'), 'click [2]', results(),
     'opens results'),
    (families.START.replace('=', '= y'), 'press [1] Enter', results(),
     'opens results'),
    (results(f'{RUG} $9.0'), 'click [4]', ITEM, 'opens B04'),
    (results(), 'click [2]', None, 'text takes no click'),
    (results(), 'click [1]', families.START, 'opens search'),
    (ITEM, 'click [4]', ITEM.replace('blue', 'blue checked'), 'turns on'),
    (ITEM, 'click [2]', results(), 'opens results'),
    (ITEM, 'click [9]', TOP + 'button: < Prev\n[3] text: A rug.',
     'opens description'),
    (TOP + 'button: < Prev\n[3] text: A rug.', 'click [2]', ITEM,
     'opens item'),
])
def test_steps_before_the_end_are_explained_without_the_goal(
    state, action, after, why):
  assert explain(state, action, after or states.invalid(state)) == why


def test_instructions_of_people_are_not_read():
  task = dataclasses.replace(TASK, instruction='i need a red rug')
  with pytest.raises(families.InstructionError, match='shop-garden'):
    families.advise(task, families.START)
  assert explain(ITEM, 'click [10]', states.OVER, 1., task) == ''
  assert not families.accepts(task) and not families.reads(task)


def test_real_tasks_are_accepted(world):
  tasks = [types.Task(f, s) for f in families.FAMILIES for s in range(60)]
  assert all(map(families.accepts, world.reset(tasks)))


@pytest.mark.parametrize('old, new', [
    ('area rugs', 'area rug'), ('solid wood', 'slim fit'),
    ('solid wood, ', ''), ('non slip', 'solid wood'), ('color', 'flavor'),
    ('60.00', '61.00'), ('Find', 'Buy'), ('and size: full', 'and color: blue'),
    ('color: red, and size: full', 'size: full, and color: red'),
])
def test_tasks_that_the_catalogue_cannot_make_are_refused(old, new):
  assert families.accepts(TASK)
  assert old in ASKED
  assert not families.accepts(dataclasses.replace(
      TASK, instruction=ASKED.replace(old, new)))


@pytest.mark.parametrize('state', [
    '', ITEM, 'rubbish', families.START.replace('=', '= x'),
    families.START + '\n[3] button: More'])
def test_tasks_that_start_elsewhere_are_refused(state):
  assert not families.accepts(dataclasses.replace(TASK, initial_state=state))


def test_families_are_the_worlds(world):
  assert set(families.FAMILIES) == set(world.goals)
  assert set(webshop_catalogue.CATEGORIES) == {
      f.category for f in families.FAMILIES.values() if f.category}
