"""What is known about the first families, on a page of each; no browser.

All others are played in real Chromium by test_miniwob_families.
"""

import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours
from dreamgym_jax.envs import miniwob_tasks as families
from dreamgym_jax.text import actions, prompts, states

SUBMIT = 'into the text field and press Submit.'
LOGIN = ('Enter the username "vina" and the password "US" into the text '
         'fields and press login.')
LOGIN_PAGE = '[1] textbox: Username =\n[2] textbox: Password =\n[3] button: '
TEXT = '[1] textbox: =\n[2] button: Submit'
BOXES = '[1] checkbox: fzzqo\n[2] checkbox: NYYyS82\n[3] checkbox: hIy'
DIALOG = '[1] button: Close\n[2] button: Cancel\n[3] button: OK'
# family -> (instruction, page, the expert's whole script)
PAGES = {
    'click-test': ('Click the button.', '[1] button: Click Me!', 'click [1]'),
    'click-test-2': ('Click button ONE.', '[1] button: TWO\n[2] button: ONE',
                     'click [2]'),
    'click-button': ('Click on the "okay" button.',
                     '[1] textbox: =\n[2] button: Okay\n[3] button: okay',
                     'click [3]'),
    'unicode-test': ('Click on the "ÖK" button.',
                     '[1] button: Cancél\n[2] button: ÖK\n[3] textbox: =',
                     'click [2]'),
    'click-link': ('Click on the link "Eget".',
                   '[1] link: eget\n[2] link: justo.\n[3] link: Eget',
                   'click [3]'),
    'click-dialog': ('Close the dialog box by clicking the "x".',
                     '[1] text: Lorem ipsum.\n[2] button: Close',
                     'click [2]'),
    'click-dialog-2': (
        'Click the button in the dialog box labeled "Cancel".', DIALOG,
        'click [2]'),
    'click-tab': ('Click on Tab #2.',
                  '[1] tab: Tab #1 selected\n[2] tab: Tab #2', 'click [2]'),
    'click-widget': ('Click on a "text" widget.',
                     '[1] radio: A\n[2] textarea: = b\n[3] textbox: = gH',
                     'click [3]'),
    'focus-text': ('Focus into the textbox.', '[1] textbox: =', 'click [1]'),
    'focus-text-2': ('Focus into the 2nd input textbox.',
                     '[1] textbox: =\n[2] textbox: =', 'click [2]'),
    'enter-text': (f'Enter "Agustina" {SUBMIT}', TEXT,
                   'fill [1] Agustina, click [2]'),
    'enter-text-dynamic': (f'Enter "6gH" {SUBMIT}', TEXT,
                           'fill [1] 6gH, click [2]'),
    'login-user': (LOGIN, LOGIN_PAGE + 'Login',
                   'fill [1] vina, fill [2] US, click [3]'),
    'login-user-popup': (LOGIN, LOGIN_PAGE + 'OK',
                         'fill [1] vina, fill [2] US, click [3]'),
    'enter-password': (
        'Enter the password "yA" into both text fields and press submit.',
        '[1] textbox: Password =\n[2] textbox: Verify password =\n'
        '[3] button: Submit', 'fill [1] yA, fill [2] yA, click [3]'),
    'read-table': (
        f'Enter the value of Color {SUBMIT}',
        '[1] text: Gender\n[2] text: Male\n[3] text: Color\n[4] text: gray\n'
        '[5] textbox: =\n[6] button: Submit', 'fill [5] gray, click [6]'),
    'choose-list': (
        'Select Bobine from the list and click Submit.',
        '[1] combobox: = Aurora options Aurora ; Lorri ; Bobine\n'
        '[2] button: Submit', 'select_option [1] Bobine, click [2]'),
    'click-option': ('Select USa and click Submit.',
                     '[1] radio: GDK\n[2] radio: USa\n[3] button: Submit',
                     'click [2], click [3]'),
    'click-checkboxes': ('Select fzzqo, hIy and click Submit.',
                         f'{BOXES}\n[4] button: Submit',
                         'click [1], click [3], click [4]'),
    'click-checkboxes-transfer': (
        'Select nothing and click Submit.', f'{BOXES}\n[4] button: Submit',
        'click [4]'),
    'multi-layouts': (
        'Search for crime movies directed by Curry from year 1995.',
        '[1] textbox: Released Date =\n[2] textbox: Director Name =\n'
        '[3] textbox: Movie Genre =\n[4] button: Go!',
        'fill [3] crime, fill [2] Curry, fill [1] 1995, click [4]'),
}
EVERY = pytest.mark.parametrize('name', sorted(PAGES))
# A last action on the untouched page that loses, where the first is not it.
LOSING = {name: 'click [1]' for name in PAGES} | {
    name: PAGES[name][2].rpartition(', ')[2] for name in PAGES
    if ', ' in PAGES[name][2]}
CANNOT_LOSE = {'click-test', 'focus-text', 'click-checkboxes-transfer'}


def task_of(name):
  return types.Task(name, 0, *PAGES[name][:2])


def script(name):
  """[(state, thought, action)] of the expert, on what its actions make."""
  task, steps = task_of(name), []
  state = task.initial_state
  while len(steps) < 9:
    steps.append((state, *families.advise(task, state)))
    after = behaviours.imagine(state, steps[-1][2])
    if after == state:
      break
    state = after
  return steps


def explain(name, state, action, next_state, reward=0.0):
  return families.annotate(task_of(name), types.Transition(
      state, action, next_state, reward, next_state == states.OVER))


@EVERY
def test_the_expert_does_what_the_page_asks_and_then_finishes(name):
  steps = script(name)
  assert ', '.join(action for _, _, action in steps) == PAGES[name][2]
  goal = families.FAMILIES[name].goal(PAGES[name][0], steps[-1][0])
  assert all(f.want == f.have for f in goal.fields)
  target, = (e for e in states.parse(steps[-1][0]) if e.id == goal.finish)
  assert steps[-1][1].startswith('need ' if goal.need else 'finish ')
  assert steps[-1][1].endswith(target.label) and goal.need in (
      '', target.name, target.role, f'[{target.id}]')


@EVERY
def test_the_thought_of_a_step_names_what_is_typed(name):
  for _, thought, action in script(name)[:-1]:
    _, element, argument = actions.parse(action)
    wanted = argument or (
        f'USa [{element}]' if name == 'click-option' else 'on')
    assert thought.endswith(f'need {wanted}')
    # Where the page names the element, the thought has name and id together.
    target = states.parse(PAGES[name][1])[element - 1]
    assert not target.name or target.label in thought


@EVERY
def test_verdicts_say_what_happened(name):
  state, _, action = script(name)[-1]
  why = explain(name, state, action, states.OVER, 1.0)
  assert why and not prompts.refutes(why)
  # The page knows better: there is no verdict to learn from.
  assert explain(name, state, action, states.OVER, 0.0) == ''


@EVERY
def test_a_loss_refutes_itself(name):
  state, action = PAGES[name][1], LOSING[name]
  if name in CANNOT_LOSE:
    assert explain(name, state, action, states.OVER) == ''
    return
  why = explain(name, state, action, states.OVER)
  assert prompts.refutes(why)
  assert explain(name, state, action, states.OVER, 1.0) == ''


@EVERY
def test_steps_before_the_end_are_explained_without_the_goal(name):
  page = PAGES[name][1]
  first = states.parse(page)[0]
  assert explain(name, page, 'click [40]', states.invalid(page)) == (
      'no such element')
  assert explain(name, page, 'select_option [1] q', states.invalid(page)) in (
      'no such option', f'{first.role} takes no select_option')
  assert explain(name, page, 'hover [1]', page) == 'nothing changes'
  for (state, _, action), (after, _, _) in zip(
      script(name), script(name)[1:], strict=False):
    assert explain(name, state, action, after) in ('changes', 'turns on',
                                                   'value replaced')


def test_boxes_turn_on_and_off_and_values_are_replaced():
  page = PAGES['click-checkboxes'][1]
  on = behaviours.imagine(page, 'click [2]')
  assert explain('click-checkboxes', page, 'click [2]', on) == 'turns on'
  assert explain('click-checkboxes', on, 'click [2]', page) == 'turns off'
  held = '[1] textbox: = Al\n[2] button: Submit'
  assert explain('enter-text', held, 'fill [1] Bo',
                 held.replace('Al', 'Bo')) == 'value replaced'


@EVERY
def test_an_instruction_of_another_kind_is_not_explained(name):
  task = types.Task(name, 0, 'Do as you like.', PAGES[name][1])
  end = types.Transition(PAGES[name][1], 'click [1]', states.OVER, 1.0, True)
  assert families.annotate(task, end) == ''
  with pytest.raises(families.InstructionError, match=name):
    families.advise(task, PAGES[name][1])


@EVERY
def test_the_expert_waits_where_its_target_is_gone(name):
  """Escape closes a dialog, and the page is empty."""
  assert families.advise(task_of(name), '') == ('', 'noop')


@EVERY
def test_real_pages_are_accepted(name):
  assert families.accepts(task_of(name))


@EVERY
@pytest.mark.parametrize('spoil', [
    lambda page: f'{page}\n[9] slider: 3',
    lambda page: f'{page}\n[9] checkbox: q checked',
    lambda page: f'{page}\nrubbish',
    lambda page: f'{page}\n[1] button: twice',
    lambda page: '',
    lambda page: '[1] text: nothing here',
], ids=['role', 'checked', 'line', 'same id', 'empty', 'no target'])
def test_pages_that_no_family_makes_are_refused(name, spoil):
  task = types.Task(name, 0, PAGES[name][0], spoil(PAGES[name][1]))
  assert not families.accepts(task)


@pytest.mark.parametrize('name, instruction', [
    ('click-button', 'Click on the "nope" button.'),
    ('click-link', 'Click on the link "justo".'),
    ('focus-text-2', 'Focus into the 3rd input textbox.'),
    ('click-tab', 'Click on Tab #3.'),
    ('click-widget', 'Click on a "checkbox" widget.'),
    ('read-table', f'Enter the value of gray {SUBMIT}'),
    ('choose-list', 'Select Bo from the list and click Submit.'),
    ('click-option', 'Select Usa and click Submit.'),
    ('click-checkboxes', 'Select fzzqo, hi and click Submit.'),
])
def test_targets_that_are_not_there_are_refused(name, instruction):
  assert not families.accepts(
      types.Task(name, 0, instruction, PAGES[name][1]))
