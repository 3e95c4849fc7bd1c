"""WebShop as a world: pages, actions, official strings, ends, determinism."""

import functools
import math
import random

import numpy as np
import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, webshop, webshop_site
from dreamgym_jax.envs import webshop_catalogue as shop
from dreamgym_jax.text import actions, states

START = '[1] textbox: Search =\n[2] button: Search'


def product(n, **changes):
  return shop.Product(**{
      'asin': f'B00000000{n}' if n < 10 else f'B0000000{n}',
      'name': f'Zeta Bowl {n}', 'description': 'Round.',
      'bullets': ('Deep.', 'Blue.'), 'category': 'garden', 'query': 'bowls',
      'product_category': 'Home › Bowls', 'price': 9.5, 'price_tag': '$9.5',
      'options': (), 'attributes': ('deep',)} | changes)


@functools.cache
def small():
  """Twelve bowls and a kettle whose texts are awkward to show."""
  awkward = product(
      13, name='Kettle [new]\n edition', price_tag='$8.0 to $12.0',
      options=(('color', ('red checked', 'checked', 'red')),
               ('size', ('small', 'red'))),
      description='', reviews=('"Good" 5 of 5',), rating='5.0')
  made = [product(n) for n in range(1, 13)] + [awkward]
  goals = shop.made_up_goals(
      made, {p.asin: shop.Ask('Find me deep kettle', ('deep',))
             for p in (made[0], awkward)}, random.Random(0))
  return shop.Catalogue(tuple(made), tuple(goals))


def visit(*texts, **options):
  """(world, observations) of one row that does all this in the small shop."""
  world = webshop.WebShop(small, **options)
  world.reset([types.Task('shop', 0)])
  return world, [world.step([0], [text])[0] for text in texts]


@pytest.fixture(scope='module')
def world():
  return webshop.WebShop()


def test_a_task_starts_on_the_search_page(world):
  tasks = [types.Task('shop-beauty', 3), types.Task('shop', 499)]
  first, second = world.reset(tasks)
  assert first.initial_state == second.initial_state == START
  assert first.instruction == world.goals['shop-beauty'][3].instruction
  assert second.instruction == world.goals['shop'][499].instruction
  assert first.task_id == 'shop-beauty/3'


def test_family_and_seed_reproduce_the_goal_in_any_batch(world):
  tasks = [types.Task(f'shop-{c}', s) for c in shop.CATEGORIES for s in (0, 9)]
  there, back = world.reset(tasks), world.reset(tasks[::-1])[::-1]
  assert there == back == webshop.WebShop().reset(tasks)
  assert len({t.instruction for t in there}) == len(tasks)


def test_a_row_begins_anew_and_the_others_go_on():
  world = webshop.WebShop(small)
  world.reset([types.Task('shop', 0)] * 2)
  page = world.step([0, 1], ['fill [1] kettle'] * 2)[0].state
  assert world.reset([types.Task('shop', 1)], [0])[0].initial_state == START
  assert [o.state for o in world.step([0, 1], ['noop'] * 2)] == [START, page]


def test_families_split_the_goals(world):
  assert set(world.goals) == {'shop', *(f'shop-{c}' for c in shop.CATEGORIES)}
  parts = [g for f, goals in world.goals.items() if f != 'shop' for g in goals]
  assert sorted(map(id, parts)) == sorted(map(id, world.goals['shop']))
  assert min(map(len, world.goals.values())) > 1500


@pytest.mark.parametrize('task, complaint', [
    (types.Task('shop-beuty', 0), 'did you mean shop-beauty'),
    (types.Task('shop', -1), 'shop/-1: seeds'),
    (types.Task('shop', 10**6), 'are below'),
])
def test_tasks_that_the_shop_has_not(world, task, complaint):
  with pytest.raises(webshop.EnvError, match=complaint):
    world.reset([task])


def test_ten_results_a_page_and_ways_between():
  _, seen = visit('fill [1] Zeta  Bowl', 'click [2]', 'click [3]', 'click [3]',
                  'click [4]', 'click [2]', 'click [1]')
  typed, first, second, back, item, results, search = (o.state for o in seen)
  assert typed == '[1] textbox: Search = Zeta Bowl\n[2] button: Search'
  lines = first.split('\n')
  assert lines[:4] == [
      '[1] button: Back to Search', '[2] text: Page 1 (Total results: 12)',
      '[3] button: Next >', '[4] link: B000000001 Zeta Bowl 1 $9.5']
  assert len(lines) == 13
  assert second == (
      '[1] button: Back to Search\n[2] text: Page 2 (Total results: 12)\n'
      '[3] button: < Prev\n[4] link: B000000011 Zeta Bowl 11 $9.5\n'
      '[5] link: B000000012 Zeta Bowl 12 $9.5')
  assert back == first == results
  assert item == (
      '[1] button: Back to Search\n[2] button: < Prev\n'
      '[3] status: item = Zeta Bowl 1\n[4] status: price = $9.5\n'
      '[5] text: Rating: N.A.\n'
      '[6] button: Description\n[7] button: Features\n[8] button: Reviews\n'
      '[9] button: Attributes\n[10] button: Buy Now')
  assert search == START
  assert not any(o.is_invalid or o.done or o.reward for o in seen)


def test_at_most_fifty_results(world):
  found = world.site.search('white area rugs')
  assert len(found) == 50 == len(set(found))
  assert all(world.site.products[a].query == 'area rugs' for a in found[:18])
  assert world.site.search('zzz') == world.site.search('the') == ()
  world.reset([types.Task('shop', 0)])
  world.step([0], ['fill [1] white area rugs'])
  state = world.step([0], ['click [2]'])[0].state
  for _ in range(4):
    button = next(e for e in states.parse(state) if e.name == 'Next >')
    state = world.step([0], [f'click [{button.id}]'])[0].state
  assert 'Page 5' in state and 'Next >' not in state


@pytest.mark.parametrize('n, is_more', [(9, False), (10, False), (11, True)])
def test_there_is_a_next_page_from_the_eleventh_result_on(n, is_more):
  site = webshop_site.Site(shop.Catalogue(small().products[:n], ()))
  page = site.page(webshop_site.Place(webshop_site.RESULTS, words='bowl'))
  assert ('Next >' in page.state) == is_more
  assert page.roles.count('link') == min(n, 10)


def test_scores_are_lucenes_bm25():
  index = webshop_site.Index([['a', 'b'], ['b', 'c', 'c'], ['d']], k1=1., b=.5)
  # c: in 1 of 3 documents, twice in one of 3 tokens where 2 is the mean.
  c = math.log(1 + 2.5 / 1.5) * 2 / (2 + 1 * (.5 + .5 * 3 / 2))
  # b: in 2 of 3 documents, once each.
  b = math.log(1 + 1.5 / 2.5)
  expected = [b / (1 + 1.), c + b / (1 + 1.25), 0]
  np.testing.assert_allclose(index.scores(['b', 'c', 'zzz']), expected)
  np.testing.assert_allclose(index.scores(['c', 'c'])[1], 2 * c)
  assert not index.scores([]).any()


def test_tokens_forget_plurals_and_stop_words():
  assert webshop_site.tokens('The Dresses of 2 Buses: glass, gas & RUGS') == [
      'dresse', '2', 'buse', 'glass', 'gas', 'rug']


def test_a_search_that_finds_nothing_has_an_empty_page():
  for words in ('zzz', 'of the', '!'):
    _, seen = visit(f'fill [1] {words}', 'click [2]')
    assert seen[-1].state == ('[1] button: Back to Search\n'
                              '[2] text: Page 1 (Total results: 0)')


AWKWARD = ('fill [1] kettle', 'click [2]', 'click [3]')


def test_awkward_texts_are_shown_so_that_they_read_back():
  _, seen = visit(*AWKWARD, 'click [4]', 'click [9]', 'click [6]')
  results, item, first, other, second = (o.state for o in seen[1:])
  assert '[3] link: B000000013 Kettle (new) edition $8.0 to $12.0' in results
  assert item.split('\n')[2:9] == [
      '[3] text: color', '[4] radio: "red checked"', '[5] radio: "checked"',
      '[6] radio: red', '[7] text: size', '[8] radio: small', '[9] radio: red']
  assert '[4] radio: "red checked" checked' in first
  # Each option has its own choice.
  held = states.held(states.parse(other))
  assert held == ['"red checked" checked', 'red checked',
                  'item = Kettle (new) edition', 'price = $8.0 to $12.0']
  assert states.held(states.parse(second))[:2] == [
      'red checked', 'red checked']


@pytest.mark.parametrize('button, texts', [
    (13, []),      # an empty description
    (14, ['Deep.', 'Blue.']), (15, ['"Good" 5 of 5']),
    (16, ['deep', 'garden', 'bowls', 'Home › Bowls'])])
def test_subpages_and_back_with_choices_kept(button, texts):
  _, seen = visit(*AWKWARD, 'click [6]', f'click [{button}]', 'click [2]')
  item, page, back = (o.state for o in seen[-3:])
  assert [e.description for e in states.parse(page)] == [
      'Back to Search', '< Prev', *texts]
  assert back == item and '[6] radio: red checked' in item


def test_choices_are_forgotten_on_the_results():
  _, seen = visit(*AWKWARD, 'click [6]', 'click [2]', 'click [3]')
  assert seen[-1].state == seen[2].state


def test_there_are_no_reviews_and_only_the_subpages_asked_for():
  _, seen = visit('fill [1] bowl', 'click [2]', 'click [4]', 'click [8]')
  assert 'No reviews found' in seen[-1].state
  _, seen = visit('fill [1] bowl', 'click [2]', 'click [4]',
                  subpages=webshop_site.SUBPAGES[:3])
  assert 'Attributes' not in seen[-1].state


def test_buying_ends_with_the_official_reward():
  world, seen = visit(*AWKWARD, 'click [6]')
  goal = world.goals['shop'][0]
  assert world.purchases == [None]
  last = world.step([0], ['click [17]'])[0]
  (bought,) = world.purchases
  assert (last.state, last.done) == (states.OVER, True)
  assert last.reward == float(bought.score.reward == 1)
  assert bought.product.asin == 'B000000013'
  assert bought.options == {'color': 'red'}
  assert bought.score.type_reward == float(goal.asin == 'B000000013')
  with pytest.raises(ValueError, match='over'):
    world.step([0], ['noop'])
  world.reset([types.Task('shop', 0)])
  assert world.purchases == [None]


@pytest.mark.parametrize('seed', range(7))
def test_only_the_whole_reward_is_success(seed):
  """Every goal of the small shop: a bowl's, and six ways to want a kettle."""
  world = webshop.WebShop(small)
  world.reset([types.Task('shop', seed)])
  goal = world.goals['shop'][seed]
  for text in (*AWKWARD, 'click [4]', 'click [8]', 'click [17]'):
    seen = world.step([0], [text])[0]
  wanted = goal.options == ('red checked', 'small')
  score = world.purchases[0].score
  assert (seen.reward == 1) == (score.reward == 1)
  if wanted:
    assert seen.reward == 1
  if not goal.options:
    assert (seen.reward, score.reward) == (0, 0)   # 'Bowl' is no kettle


@pytest.mark.parametrize('text', [
    'click [3]', 'click [0]', 'fill [2] x', 'click [2]', 'press [2] Enter',
    'press [1] Enter', 'press [1] a', 'select_option [1] x', 'clear [2]',
    'jump', 'search[bowl]', ''])
def test_invalid_on_the_empty_search_page(text):
  _, (seen, after) = visit(text, 'noop')
  assert seen == types.Observation(states.invalid(START), is_invalid=True)
  assert after == types.Observation(START)


@pytest.mark.parametrize('text', [
    'click [2]', 'fill [4] x', 'press [4] Tab', 'click [14]'])
def test_invalid_on_the_results(text):
  _, seen = visit('fill [1] bowl', 'click [2]', text)
  assert seen[-1].is_invalid and seen[-1].state == states.invalid(seen[1].state)


@pytest.mark.parametrize('text', ['noop', 'hover [2]', 'focus [1]', 'click [1]',
                                  'dblclick [1]', 'clear [1]', 'fill [1]'])
def test_what_changes_nothing_is_valid(text):
  _, (seen,) = visit(text)
  assert seen == types.Observation(START)


def test_enter_clicks():
  _, seen = visit('fill [1] bowl', 'press [1] Enter', 'press [4] Enter')
  _, clicked = visit('fill [1] bowl', 'click [2]', 'dblclick [4]')
  assert seen == clicked


@pytest.mark.parametrize('text', ['noop', 'rubbish'])
def test_the_step_limit(text):
  world, seen = visit(*[text] * 15)
  assert [o.done for o in seen] == [False] * 14 + [True]
  assert seen[-1].reward == 0 and world.purchases == [None]
  _, seen = visit(*[text] * 3, max_steps=3)
  assert seen[-1].done


def test_a_purchase_at_the_last_step_counts():
  world, seen = visit(*AWKWARD, 'click [17]', max_steps=4)
  assert seen[-1].state == states.OVER and world.purchases[0]


def test_rows_are_apart_and_named_once(world):
  world.reset([types.Task('shop', 0)] * 3)
  seen = world.step([2, 0], ['fill [1] rug', 'noop'])
  assert ['rug' in o.state for o in seen] == [True, False]
  assert world.step([1], ['noop'])[0].state == START
  with pytest.raises(ValueError, match='twice'):
    world.step([1, 1], ['noop', 'noop'])


def walk(world, seed, steps=15):
  """(state, action, next state) of random visits; states may be the end."""
  rng = np.random.default_rng(seed)
  (task,) = world.reset([types.Task('shop', seed)])
  state = task.initial_state
  for _ in range(steps):
    action = behaviours.random_action(state, task.instruction, rng)
    seen = world.step([0], [action])[0]
    yield state, action, seen
    state = seen.state
    if seen.done:
      return


def test_every_page_reads_back_and_every_edit_applies(world):
  kinds = set()
  for seed in range(25):
    for state, action, seen in walk(world, seed):
      kinds |= {e.name for e in states.parse(state) if e.role == 'button'}
      assert states.body(state) == '\n'.join(map(str, states.parse(state)))
      edit = states.diff(state, seen.state, actions.argument(action))
      assert states.apply(
          state, edit, actions.argument(action)) == seen.state
  assert {'Search', 'Next >', '< Prev', 'Buy Now'} <= kinds


def test_house_and_official_actions_do_the_same():
  """Random visits, replayed in official strings alone, see the same pages."""
  house = webshop.WebShop(max_steps=99)
  official = webshop.WebShop(max_steps=99, read=webshop.read_official)
  said = set()
  for seed in range(25):
    official.reset([types.Task('shop', seed)])
    for state, action, seen in walk(house, seed):
      text = webshop.to_official(action, state)
      if not text or seen.is_invalid:
        continue   # nothing is sent
      after = official.step([0], [text])[0]
      assert after == seen
      said.add(text.split('[')[0])
  assert said == {'search', 'click'}


def test_official_play():
  _, seen = visit('search[Kettle]', 'click[B000000013]', 'click[RED CHECKED]',
                  'click[red]', 'click[features]', 'click[< Prev]',
                  'search[bowl]', 'click[next >]', 'click[back to search]',
                  read=webshop.read_official)
  assert not any(o.is_invalid for o in seen)
  # Of two radios alike the last is clicked.
  assert states.held(states.parse(seen[3].state))[:2] == [
      '"red checked" checked', 'red checked']
  assert seen[5].state == seen[3].state
  _, again = visit('search[bowl]', read=webshop.read_official)
  assert seen[6].state == again[0].state and 'Page 2' in seen[7].state
  assert seen[8].state == START


@pytest.mark.parametrize('text', [
    'search[]', 'search[ ]', 'click[search]', 'click[buy now]', 'click[x]',
    'click[]', 'buy[x]', 'click [1]', 'noop'])
def test_official_strings_that_do_nothing(text):
  _, (seen,) = visit(text, read=webshop.read_official)
  assert seen == types.Observation(states.invalid(START), is_invalid=True)


def test_an_option_value_hides_a_button_of_the_same_name():
  page = '[1] button: Features\n[2] radio: features\n[3] button: Features'
  assert webshop.read_official('click[Features]', page) == [
      actions.Action('click', 2)]


def test_official_names_of_house_actions():
  _, seen = visit('fill [1] Deep bowl')
  state = seen[0].state
  for action in ('click [2]', 'press [1] Enter'):
    assert webshop.to_official(action, state) == 'search[Deep bowl]'
  for action in ('fill [1] x', 'clear [1]', 'noop', 'hover [2]', 'click [1]',
                 'click [9]'):
    assert webshop.to_official(action, state) == ''
  assert webshop.to_official('click [2]', START) == ''
  _, seen = visit(*AWKWARD)
  assert [webshop.to_official(f'click [{i}]', seen[-1].state)
          for i in (1, 2, 3, 4, 17)] == [
      'click[back to search]', 'click[< prev]', '', 'click[red checked]',
      'click[buy now]']


def test_the_official_text_of_pages():
  _, seen = visit(*AWKWARD)
  assert webshop.to_official_text(START, 'Find me x') == (
      'WebShop [SEP] Instruction: [SEP] Find me x [SEP] Search')
  assert webshop.to_official_text(seen[1].state, 'Find me x') == (
      'Instruction: [SEP] Find me x [SEP] Back to Search [SEP] '
      'Page 1 (Total results: 1) [SEP] B000000013 [SEP] Kettle (new) edition '
      '[SEP] $8.0 to $12.0')
  assert 'color [SEP] red checked [SEP] checked [SEP] red [SEP] size' in (
      webshop.to_official_text(seen[2].state, ''))


def test_closing_twice_is_harmless():
  world, _ = visit('noop')
  assert world.close() == world.close()
  assert world.reset([types.Task('shop', 0)])
