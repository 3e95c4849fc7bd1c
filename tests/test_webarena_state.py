"""Accessibility trees as states, on trees written by hand."""

import functools

import pytest
from browsergym.core.action import highlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax.envs import webarena_gym, webarena_state
from dreamgym_jax.text import actions, states

GOAL = 'What is the billing name of order 187?'


def observe(*children, focused='', hidden=(), clickable=()):
  """BrowserGym's observation of a page; a child is (role, name, more)."""
  nodes = [{'nodeId': 'root', 'role': {'value': 'RootWebArea'},
            'name': {'value': 'Shop'}, 'childIds': []}]

  def add(parent, role, name='', value=None, inside=(), **properties):
    bid = str(len(nodes))
    node = {'nodeId': f'n{bid}', 'role': {'value': role},
            'name': {'value': name}, 'childIds': [], 'properties': [
                {'name': k, 'value': {'value': v}}
                for k, v in properties.items()]}
    if role != 'StaticText':
      node['browsergym_id'] = bid
    if value is not None:
      node['value'] = {'value': value}
    nodes.append(node)
    parent['childIds'].append(node['nodeId'])
    for child in inside:
      add(node, *child[:2], **(child[2] if len(child) > 2 else {}))

  for child in children:
    add(nodes[0], *child[:2], **(child[2] if len(child) > 2 else {}))
  extra = {n['browsergym_id']: {
      'visibility': float(n['browsergym_id'] not in hidden), 'bbox': None,
      'clickable': n['browsergym_id'] in clickable}
      for n in nodes if 'browsergym_id' in n}
  return {'axtree_object': {'nodes': nodes}, 'extra_element_properties': extra,
          'focused_element_bid': focused}


def text(name):
  return 'StaticText', name


def bodies(*children, **more):
  return [c.body for c in webarena_state.read(observe(*children, **more))]


def test_every_role_is_written_as_in_the_house_format():
  found = bodies(
      ('heading', 'My [Orders]; all:', {'inside': [text('My [Orders]; all:')]}),
      ('textbox', 'Mail', {'value': 'a@b.c', 'inside': [text('a@b.c')]}),
      ('textbox', 'Note', {'value': '', 'multiline': True}),
      ('combobox', 'Sort by', {'value': 'Price', 'inside': [
          ('MenuListPopup', '', {'inside': [
              ('option', 'Price'), ('option', 'Name; desc')]})]}),
      ('combobox', 'City=US', {'value': 'Pitts'}),
      ('checkbox', 'Agree', {'checked': 'true'}),
      ('checkbox', 'News', {'checked': 'false'}),
      ('tab', 'Reviews', {'selected': True}),
      ('button', '\ue603 Buy', {'disabled': True}),
      ('generic', '', {'inside': [text('Total'), text('$3')]}),
      ('row', '', {'inside': [
          ('cell', '187', {'inside': [text('187')]}),
          ('cell', '', {'inside': [
              ('link', 'View', {'inside': [text('View')]})]})]}))
  assert found == [
      'text: My (Orders), all', 'textbox: Mail = a@b.c', 'textarea: Note =',
      'combobox: Sort by = Price options Price ; Name, desc',
      'textbox: City-US = Pitts', 'checkbox: Agree checked', 'checkbox: News',
      'tab: Reviews selected', 'button: Buy disabled', 'text: Total $3',
      'text: 187 | View', 'link: View']
  lines = '\n'.join(f'[{n}] {b}' for n, b in enumerate(found, 1))
  parsed = states.parse(lines)
  assert parsed[3].options == ('Price', 'Name, desc') and parsed[5].is_checked
  assert parsed[1].value == 'a@b.c' and parsed[3].value == 'Price'


def test_an_option_is_chosen_under_the_name_that_the_page_has():
  candidates = webarena_state.read(observe(('combobox', 'Sort', {
      'value': 'Price', 'inside': [('option', 'Name; desc')]})))
  shown = webarena_state.render(candidates, [0], {})
  assert shown.options == {1: {'Name, desc': 'Name; desc'}}


def test_a_bare_field_is_named_by_the_text_before_it():
  found = bodies(('paragraph', '', {'inside': [text('Username')]}),
                 ('textbox', '', {'value': ''}),
                 ('generic', '', {'inside': [text('go')]}), clickable=('4',))
  assert found == ['textbox: Username =', 'clickable: go']


def page(n=30, **more):
  links = [('link', f'Item {i}') for i in range(n)]
  return observe(
      *links[:n // 2], ('generic', '', {'inside': [text('Billing name: Ann')]}),
      ('textbox', 'Search', {'value': ''}), *links[n // 2:],
      ('generic', '', {'inside': [text('fine print')]}), **more)


def shown(observation, before=None, goal=GOAL):
  candidates = webarena_state.read(observation, before)
  return [candidates[i].body for i in webarena_state.by_rule(goal, candidates)]


def test_the_rule_keeps_what_the_goal_names_and_what_holds_values():
  found = shown(page())
  assert len(found) == 10 and found.count('text: Billing name: Ann') == 1
  assert 'textbox: Search =' in found and 'text: fine print' not in found
  assert found[:2] == ['link: Item 0', 'link: Item 1']   # the upper of equals


def test_the_rule_follows_focus_change_and_sight():
  last = str(len(page()['axtree_object']['nodes']) - 3)
  assert 'link: Item 29' not in shown(page())
  assert 'link: Item 29' in shown(page(focused=last))
  before = {c.key: c.body for c in webarena_state.read(page())}
  assert 'link: Item 29' in shown(page(), before | {last: 'link: Item 28'})
  assert 'link: Item 0' not in shown(page(hidden=('1',)))
  assert shown(page(), before) == shown(page())    # nothing changed


def test_ids_stay_while_the_page_does():
  candidates = webarena_state.read(page())
  first = webarena_state.render(candidates, [3, 1], {})
  assert first.state == '[1] link: Item 1\n[2] link: Item 3'
  assert first.bid_of == {1: '2', 2: '4'}
  second = webarena_state.render(candidates, [0, 3], first.id_of)
  assert second.state == '[3] link: Item 0\n[2] link: Item 3'
  assert second.bid_of == {3: '1', 2: '4'}
  full = {f'x{n}': n for n in range(1, 1000)}
  assert webarena_state.render(candidates, [0], full).bid_of == {1: '1'}
  assert webarena_state.render([], [], {}).state == ''
  with pytest.raises(ValueError, match='chose'):
    webarena_state.render(candidates, [len(candidates)], {})


@pytest.mark.parametrize('answer, is_taken', [
    ('2, 0', True), ('2 0.', True), ('', False), ('the first', False),
    ('0, 99', False), ('__import__("os")', False)])
def test_a_model_may_choose_and_is_not_trusted(answer, is_taken):
  prompts = []
  select = functools.partial(
      webarena_state.by_model, lambda p: prompts.append(p) or answer)
  candidates = webarena_state.read(page())
  found = select(GOAL, candidates)
  assert found == ([0, 2] if is_taken else webarena_state.by_rule(
      GOAL, candidates))
  assert GOAL in prompts[0] and '2. link: Item 2' in prompts[0]
  assert select(GOAL, candidates[:4]) == [0, 1, 2, 3] and len(prompts) == 1


@settings(deadline=None)     # the first call makes the parser
@given(st.text(min_size=0, max_size=40))
def test_no_text_leaves_its_string(argument):
  """BrowserGym's own parser gives back what went in, and nothing else."""
  action = actions.Action('fill', 3, argument)
  call = webarena_gym.translate(action, 'a51')
  assert call.isascii() and '\n' not in call
  parsed = highlevel.highlevel_action_parser.parse_string(call, parse_all=True)
  assert parsed.as_list() == [['fill', ['a51', argument]]]
  assert webarena_gym._action_set().to_python_code(call).endswith(
      f'\nfill({"a51"!r}, {argument!r})\n')


def test_every_verb_of_the_house_is_one_of_browsergym(monkeypatch):
  for verb in actions.VERBS:
    argument = {'goto': 'http://a/b', 'scroll': 'down'}.get(verb, 'x')
    call = webarena_gym.translate(actions.Action(verb, 1, argument), '7')
    webarena_gym._action_set().to_python_code(call)
  new = {'answer': (False, True), 'go_back': (False, False),
         'goto': (False, True), 'scroll': (False, True), 'fly': (False, False)}
  for verb, takes in new.items():
    monkeypatch.setitem(actions.VERBS, verb, takes)
  said = {text: webarena_gym.translate(actions.parse(text)) for text in (
      'answer it\'s "5"', 'go_back', 'goto http://a/b', 'scroll up')}
  assert list(said.values()) == [
      'send_msg_to_user(\'it\\\'s "5"\')', 'go_back()', "goto('http://a/b')",
      'scroll(0, -500)']
  for bad in ('fly', 'goto file:///etc/passwd', 'goto javascript:1',
              'scroll left'):
    with pytest.raises(actions.ActionError):
      webarena_gym.translate(actions.parse(bad))
