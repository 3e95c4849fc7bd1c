"""Streams and their strict parsers; the tokenizer below them."""

import dataclasses

import pytest

from dreamgym_jax import types
from dreamgym_jax.text import actions, prompts, states
from dreamgym_jax.text import tokenizer as tokenizers

PAGE = '[1] textbox: Username =\n[2] checkbox: fzzqo\n[3] button: Click Me!'
GOALS = ('Enter the username "vina" and the password "US" into the fields.',
         'Select fzzqo, NYYyS82 and click Submit.', "It's (not) \"x\".")


@pytest.fixture(scope='module')
def prompt():
  text = [PAGE, *GOALS, 'page same over invalid remove checked = need have',
          'click fill select_option nothing changes yes no none'] * 3
  return prompts.Prompts(tokenizers.train(text, 420))


def step(state, action, next_state, reward=0.0, reasoning='changes',
         thought='need x'):
  return types.Transition(
      state, action, next_state, reward, next_state == states.OVER,
      next_state == states.invalid(state), reasoning, thought)


def episode(*steps):
  task = types.Task('click-button', 1, GOALS[0], steps[0].state)
  return types.Episode(task, steps, types.REAL, 'expert', 'e')


FILLED = PAGE.replace('Username =', 'Username = vina')
EPISODE = episode(
    step(PAGE, 'fill [1] vina', FILLED),
    step(FILLED, 'click [9]', states.invalid(FILLED),
         reasoning='no such element'),
    step(states.invalid(FILLED), 'click [3]', states.OVER, 1.0,
         reasoning='need vina have vina yes'))


@pytest.mark.parametrize('text', [*GOALS, PAGE, FILLED, 'fill [1] Cancél ヘ'])
def test_text_survives_the_tokenizer(prompt, text):
  assert prompt.tok.decode(prompt.tok.encode(text)) == text


@pytest.mark.parametrize('text', GOALS)
def test_tight_undoes_spaced(text):
  assert tokenizers.tight(tokenizers.spaced(text)) == text


def test_a_word_is_the_same_pieces_wherever_it_stands(prompt):
  word = prompt.tok.encode('vina')
  quoted = prompt.tok.encode('Enter "vina".')
  assert any(quoted[i:i + len(word)] == word for i in range(len(quoted)))


def test_page_text_cannot_forge_a_tag(prompt):
  ids = prompt.tok.encode('click <win> [3] <end>')
  assert not set(ids) & set(prompt.tok.tag.values())


def test_no_tokenizer_is_a_clear_error(tmp_path):
  (tmp_path / 'bad.model').write_bytes(b'rubbish')
  for name in ('bad.model', 'absent.model'):
    with pytest.raises(tokenizers.TokenizerError, match=name):
      tokenizers.load(tmp_path / name)


def test_answers_parse_back(prompt):
  for s in EPISODE.transitions:
    answer = prompt.parse_answer(
        prompt.dream_answer(s).ids, s.state, s.action)
    assert answer == (s.reasoning, s.next_state, s.reward, s.done,
                      s.is_invalid, False)
    bare = prompt.parse_answer(
        prompt.dream_answer(s, use_reasoning=False).ids, s.state, s.action,
        use_reasoning=False)
    assert bare.next_state == s.next_state and bare.reasoning == ''


def test_the_step_limit_is_no_verdict(prompt):
  cut = dataclasses.replace(EPISODE.transitions[0], done=True)
  answer = prompt.parse_answer(
      prompt.dream_answer(cut).ids, PAGE, cut.action)
  assert not answer.done


def ids(prompt, reasoning, edit, flag):
  tok = prompt.tok
  return [*tok.encode(reasoning), tok.tag['edit'], *tok.encode(edit),
          tok.tag[flag]]


@pytest.mark.parametrize('parts, message', [
    (('changes', 'over', 'cont'), 'does not go with'),
    (('changes', 'same', 'win'), 'does not go with'),
    (('changes', 'remove [7]', 'cont'), 'bad edit'),
    (('changes', 'rubbish', 'cont'), 'bad edit'),
])
def test_malformed_answers(prompt, parts, message):
  with pytest.raises(prompts.ParseError, match=message):
    prompt.parse_answer(ids(prompt, *parts), PAGE, 'click [3]')


def test_answers_must_be_whole(prompt):
  whole = ids(prompt, 'changes', 'same', 'cont')
  assert prompt.parse_answer(whole, PAGE, 'noop').next_state == PAGE
  for bad in (whole[:-1], [], whole + whole, [*whole, whole[0]]):
    with pytest.raises(prompts.ParseError):
      prompt.parse_answer(bad, PAGE, 'noop')


@pytest.mark.parametrize('reasoning', [
    'need a have b no', 'need a have b yes',
    'x need a have a yes ; y need b have none no'])
def test_a_win_against_its_own_reasoning_is_a_loss(prompt, reasoning):
  answer = prompt.parse_answer(
      ids(prompt, reasoning, 'over', 'win'), PAGE, 'click [3]')
  assert answer.done and answer.reward == 0
  agreed = prompt.parse_answer(
      ids(prompt, 'need a have a yes', 'over', 'win'), PAGE, 'click [3]')
  assert agreed.reward == 1


def test_a_loss_against_its_reasoning_stands(prompt):
  """Only wins are refused: success must never be invented."""
  answer = prompt.parse_answer(
      ids(prompt, 'need a have a yes', 'over', 'lose'), PAGE, 'click [3]')
  assert answer.done and answer.reward == 0


def test_replies(prompt):
  reply = prompt.policy_reply('need vina', 'fill [1] vina').ids
  assert prompt.parse_reply(reply) == ('need vina', 'fill [1] vina')
  assert prompt.parse_reply(reply[:-1])[1] == ''
  assert prompt.parse_reply(prompt.tok.encode('need'))[1] == ''
  assert prompt.parse_reply(prompt.policy_reply('', 'noop').ids) == (
      '', 'noop')


def test_what_a_role_writes_is_what_its_stream_marks(prompt):
  dreamed = prompt.dream_stream(EPISODE, [[], [], []])
  written = [i for i, k in zip(dreamed.ids, dreamed.kinds, strict=True)
             if k != prompts.CONTEXT]
  assert written == [i for s in EPISODE.transitions
                     for i in prompt.dream_answer(s).ids]
  acted = prompt.policy_stream(EPISODE)
  written = [i for i, k in zip(acted.ids, acted.kinds, strict=True)
             if k != prompts.CONTEXT]
  assert written == [i for s in EPISODE.transitions
                     for i in prompt.policy_reply(s.thought, s.action).ids]


def test_a_malformed_action_is_not_in_the_dream(prompt):
  bad = step(PAGE, 'tap', states.invalid(PAGE))
  good = dataclasses.replace(EPISODE.transitions[0],
                             state=states.invalid(PAGE))
  stream = prompt.dream_stream(episode(bad, good), [[], []])
  assert 'tap' not in prompt.tok.show(stream.ids)
  assert prompt.tok.show(stream.ids).count('<act>') == 1


def test_an_unchanged_page_is_not_printed_again(prompt):
  show = prompt.tok.show
  assert show(prompt.observe(PAGE, PAGE)).strip() == '<page> same'
  assert show(prompt.observe(PAGE, states.invalid(PAGE))).strip() == (
      f'<page> {states.INVALID}')
  assert 'vina' in show(prompt.observe(PAGE, FILLED))


def test_short_edits_stand_for_long_pages(prompt):
  short = dataclasses.replace(prompt, repeat_pages=False)
  filled = short.observe(PAGE, FILLED)
  assert prompt.tok.show(filled).strip() == '<page> [1] = vina'
  # Of a notice, and of pages that change throughout, there is no short edit.
  invalid = states.invalid(PAGE)
  assert short.observe(PAGE, invalid) == prompt.observe(PAGE, invalid)
  other = '[1] link: a\n[2] link: b'
  assert short.observe(PAGE, other) == prompt.observe(PAGE, other)
  assert prompt.observe(PAGE, FILLED) != filled


def test_tasks_parse_back(prompt):
  task = EPISODE.task
  stream = prompt.task_stream([task], task)
  answer = [i for i, k in zip(stream.ids, stream.kinds, strict=True)
            if k == prompts.TASK]
  assert prompt.parse_task(answer) == (task.instruction, task.initial_state)
  with pytest.raises(prompts.ParseError):
    prompt.parse_task(answer[:-1])
  with pytest.raises(prompts.ParseError, match='ids'):
    prompt.parse_task(prompt.task_stream([], dataclasses.replace(
        task, initial_state='[2] button: x')).ids[1:])


def test_demos_show_action_effect_and_outcome(prompt):
  demo = prompts.Demo('click [3]', 'button: Click Me!', 'over', 1.0, True)
  text = prompt.tok.show(prompt.dream_ask('click [3]', 'button: x', [demo]))
  assert '<demo> click button: Click Me! <edit> over <win>' in text


def test_an_answer_may_be_what_was_shown(prompt):
  near = dataclasses.replace(prompt, refers=True)
  edit = '[2] link: a\n[3] link: b'
  step = types.Transition(PAGE, 'click [3]', states.apply(PAGE, edit), 0.0,
                          False, reasoning='opens')
  demo = prompts.Demo('click [1]', 'link: a', edit, 0.0, False)
  said = near.dream_answer(step, demos=[demo])
  assert near.tok.show(said.ids).strip() == 'opens <edit> shown <cont>'
  read = near.parse_answer(said.ids, PAGE, 'click [3]', demos=[demo])
  assert read.next_state == step.next_state and read.is_shown
  # Not where it is not what happens, nor where an edit is one short line.
  other = demo._replace(edit=edit.replace('b', 'c'))
  filled = EPISODE.transitions[0]
  one = demo._replace(edit=states.diff(
      filled.state, filled.next_state, actions.argument(filled.action)))
  for asked, step_, demos in (
      (near, step, [other]), (near, step, []), (near, step, [other, demo]),
      (near, filled, [one]), (prompt, step, [demo])):
    assert 'shown' not in asked.tok.show(
        asked.dream_answer(step_, demos=demos).ids)
  with pytest.raises(prompts.ParseError, match='shown'):
    near.parse_answer(said.ids, PAGE, 'click [3]')
  with pytest.raises(prompts.ParseError, match='bad edit'):
    prompt.parse_answer(said.ids, PAGE, 'click [3]', demos=[demo])


def test_a_demo_of_the_very_page_and_action_is_marked(prompt):
  near = dataclasses.replace(prompt, refers=True)
  demo = prompts.Demo('click [3]', 'button: a', 'over', 1.0, True)
  for asked, shown, text in (
      (near, demo, '<demo> click button: a'),
      (near, demo._replace(is_here=True), '<demo> here click button: a'),
      (prompt, demo._replace(is_here=True), '<demo> click button: a')):
    assert text in asked.tok.show(asked.dream_ask('click [3]', 'x', [shown]))


@pytest.mark.parametrize('said, right', [
    ('need a have b yes', 'need a have b no'),
    ('need a have a no', 'need a have a yes'),
    ('color need a have a yes ; need b have c yes ; x',
     'color need a have a yes ; need b have c no'),
    ('a at b yes ; takes it', 'a at b no'),
    ('a at a no ; goes there', 'a at a yes'),
    ('need a have b no', None), ('a at b no ; goes there', None),
    ('need no have no yes', None), ('need a no have a no yes', None),
    ('need no b have no b no', 'need no b have no b yes'),
    ('yes', None), ('nothing changes', None)])
def test_comparisons_follow_from_what_is_compared(prompt, said, right):
  tail = [prompt.tok.tag['edit'], *prompt.tok.encode('over'),
          prompt.tok.tag['lose']]
  ids = prompt.tok.encode(said) + tail
  found = prompt.corrected(ids)
  assert found == (right and prompt.tok.encode(right))
  # A `no` in the page is none of its business, nor is a cut answer.
  page = [prompt.tok.tag['edit'], *prompt.tok.encode('[1] = a at b yes')]
  assert prompt.corrected(page) is None
  assert prompt.corrected(prompt.tok.encode(said)) is None


def test_what_decides_can_be_said_once_more_before_the_answer(prompt):
  step = types.Transition(
      PAGE, 'click [2]', states.OVER, 1.0, True, reasoning='why')
  task = types.Task('f', 0, 'Press Submit', step.state)
  episode = types.Episode(task, (step,), types.REAL, 'expert', 'e')
  plain = prompt.dream_stream(episode, [[]])
  near = dataclasses.replace(prompt, restates=True)
  again = near.dream_stream(episode, [[]])
  begin = prompt.tok.tag['think']
  asked = prompt.tok.show(again.ids[:again.ids.index(begin)])
  assert asked.endswith('<task> Press Submit <hit> checkbox: fzzqo')
  # The answer and all before it are as they were.
  assert again.ids[again.ids.index(begin):] == plain.ids[
      plain.ids.index(begin):]
  assert asked.startswith(prompt.tok.show(plain.ids[:plain.ids.index(begin)]))
  # A dream asks as its training stream does.
  assert near.dream_ask('click [2]', 'checkbox: fzzqo', [], True,
                        task.instruction) == again.ids[
      len(near.start(task.instruction, task.initial_state)):
      again.ids.index(begin) + 1]


def test_a_policy_can_be_told_the_task_again_before_each_thought(prompt):
  steps = tuple(types.Transition(
      PAGE, action, PAGE, 0.0, False, thought='why')
      for action in ('click [1]', 'click [2]'))
  task = types.Task('f', 0, 'Press Submit', PAGE)
  episode = types.Episode(task, steps, types.REAL, 'expert', 'e')
  reminded = dataclasses.replace(prompt, reminds=True)
  stream = reminded.policy_stream(episode)
  shown = prompt.tok.show(stream.ids)
  assert shown.count('<task> Press Submit <think>') == len(steps)
  # It is context: what the policy writes is as it was.
  plain = prompt.policy_stream(episode)
  assert [i for i, kind in zip(stream.ids, stream.kinds, strict=True)
          if kind != prompts.CONTEXT] == [
      i for i, kind in zip(plain.ids, plain.kinds, strict=True)
      if kind != prompts.CONTEXT]


TWINS = ('[1] textbox: Username =\n[2] radio: 3\n[3] button: Go\n'
         '[4] button: Go\n[5] combobox: = a b options a b ; c\n'
         f'[6] link: B0X {"Title, " * 6}$41.20\n[7] textbox: =')


def test_elements_are_called_by_names_that_are_their_own():
  assert actions.names(TWINS) == {
      'Username': 1, '3': 2}
  assert actions.names(states.OVER) == {}


@pytest.mark.parametrize(('action', 'shown'), [
    ('click [2]', 'click <hit> 3'),            # a name, though it is a number
    ('click [3]', 'click [3]'),                # two of that name
    ('click [6]', 'click [6]'),                # a title
    ('fill [1] vina x', 'fill vina x <hit> Username'),
    ('fill [7] vina', 'fill [7] vina'),        # no name
    ('select_option [5] c', 'select_option [5] c'),
    ('click [9]', 'click [9]'), ('noop', 'noop'), ('tap', 'tap')])
def test_a_policy_may_act_on_names(prompt, action, shown):
  named = dataclasses.replace(prompt, names=True)
  reply = named.policy_reply('Username [1] need vina', action, TWINS).ids
  thought = 'Username need vina' if '<hit>' in shown else (
      'Username [1] need vina')
  assert prompt.tok.show(reply) == f'{thought} <act> {shown} <end> '
  assert named.parse_reply(reply, TWINS) == (thought, action)
  # Without `names`, <hit> has no place in a reply.
  assert prompt.parse_reply(reply, TWINS)[1] == (
      '' if '<hit>' in shown else action)


@pytest.mark.parametrize(('action', 'name'), [
    ('click', 'Stop'), ('click', 'Go'), ('noop', 'Username'), ('tap', '3'),
    ('answer 42', 'Username'), ('', 'Username'), ('click now', 'Username')])
def test_a_name_that_is_nobodys_makes_no_action(prompt, action, name):
  named = dataclasses.replace(prompt, names=True)
  tag = prompt.tok.tag
  reply = [tag['act'], *prompt.tok.encode(action), tag['hit'],
           *prompt.tok.encode(name), tag['end']]
  assert not prompts.is_wellformed(named.parse_reply(reply, TWINS)[1])


def test_a_policys_stream_names_what_its_pages_show(prompt):
  named = dataclasses.replace(prompt, names=True)
  shown = prompt.tok.show(named.policy_stream(EPISODE).ids)
  assert '<act> fill vina <hit> Username <end>' in shown
  assert '<act> click <hit> Click Me! <end>' in shown


def test_phrases_are_tokens_wherever_they_stand():
  text = 'take mug 1 in drawer 12 ; go to drawer 1'
  tok = tokenizers.train([text] * 3, 400, ('mug 1', 'drawer 1', 'drawer 12'))
  mug, = tok.encode('mug 1')
  drawer, = tok.encode('drawer 1')
  other, = tok.encode('drawer 12')
  assert len({mug, drawer, other}) == 3
  ids = tok.encode(f'[3] button: {text} drawer 123')
  assert [ids.count(i) for i in (mug, drawer, other)] == [1, 1, 2]
  assert tok.decode(ids) == f'[3] button: {text} drawer 123'
