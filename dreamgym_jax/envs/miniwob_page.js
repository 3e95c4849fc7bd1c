// The page's side of envs/miniwob.py: reads pages as text, starts episodes.
//
// Playwright runs this file at the start of every document, miniwob_input.js
// behind it. In a MiniWoB page (an iframe) it only makes the page repeatable.
// In the host page, which holds one same-origin iframe per episode, it defines
//
//   dreamgym.observe(document)      -> state text (grammar: text/states)
//   dreamgym.element(window, id)    -> the DOM element of a state's [id]
//   dreamgym.restart(window, seed)  -> the instruction of a new episode
//   dreamgym.enter(window)          before acting, as one frame among many
//   dreamgym.reset(json, seconds), dreamgym.step(json)  many frames at once
//
// Pages that show more than their text says are marked in miniwob_marks.js.
(() => {
'use strict';

if (window !== window.top) {
  // Some pages draw random numbers while they load, before an episode's seed
  // is set; a fixed generator gives every load of a page the same ones.
  let state = 1;
  Math.random = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
  window.alert = () => {};
  window.confirm = () => true;
  window.prompt = () => null;
  // Many frames share one keyboard focus. When another frame takes it, the
  // focused element here is blurred: the page would notice that other episodes
  // exist. So a blur counts only while the host acts in this frame; otherwise
  // the element is remembered, and `enter` gives it the focus back unseen.
  window.dreamgymParked = null;
  window.dreamgymQuiet = false;
  const filter = (event) => {
    if (!event.isTrusted || !event.target.ownerDocument) return;
    let isHidden = window.dreamgymQuiet;
    if (event.type.startsWith('focus') && event.type !== 'focusout') {
      if (!isHidden) window.dreamgymParked = null;
    } else if (!isHidden && top.dreamgym.acting !== window) {
      isHidden = true;
      if (event.type === 'blur') window.dreamgymParked = event.target;
    }
    if (isHidden) event.stopImmediatePropagation();
  };
  for (const type of ['focus', 'focusin', 'blur', 'focusout']) {
    window.addEventListener(type, filter, true);
  }
  return;
}

const MAX_NAME = 60;        // characters of a name
const MAX_VALUE = 120;      // characters of a field's value
const MAX_TEXTS = 12;       // lines of static text in a state
const MAX_MARKED = 2000;    // characters of a marked element's line
const BLANK = '\u2423';     // a blank at the end, where it counts
const OWN_IDS = new Set([   // MiniWoB's own furniture, not part of the task
  'query', 'reward-display', 'sync-task-cover', 'click-canvas']);
const SKIPPED = new Set(['script', 'style', 'svg', 'canvas', 'template',
                         'noscript', 'head', 'option']);
const BUTTON_TYPES = new Set(['button', 'submit', 'reset', 'image']);
const OTHER_TYPES = new Set(['hidden', 'range', 'color', 'file']);
const INLINE_LABELS = new Set(['label', 'span', 'b', 'strong', 'em', 'i']);
const CONTROLS = 'button, input, textarea, select, a, .alink, .ui-button';
const found = new WeakMap();   // window -> elements of its last state, in order

const collapse = (text) => (text || '').replace(/\s+/g, ' ').trim();
const hasControl = (el) => el.querySelector(CONTROLS) !== null;
const isDisabled = (el) => el.disabled === true ||
    el.classList.contains('ui-state-disabled');

/** Text that cannot be mistaken for the grammar around it. */
function clean(text, limit = MAX_NAME) {
  return collapse(text).replace(/\[/g, '(').replace(/\]/g, ')')
      .replace(/;/g, ',').slice(0, limit).replace(/[\s:=]+$/, '');
}

function isVisible(el) {
  return el.getClientRects().length > 0 &&
      el.ownerDocument.defaultView.getComputedStyle(el).visibility !== 'hidden';
}

function ownText(el) {
  let text = '';
  for (const node of el.childNodes) if (node.nodeType === 3) text += node.data;
  return collapse(text);
}

/** The role of an element that input can go to; '' for all others. */
function roleOf(el) {
  const tag = el.localName, classes = el.classList;
  if (tag === 'button' || classes.contains('ui-button')) return 'button';
  if (tag === 'input') {
    if (BUTTON_TYPES.has(el.type)) return 'button';
    if (el.type === 'checkbox' || el.type === 'radio') return el.type;
    return OTHER_TYPES.has(el.type) ? '' : 'textbox';
  }
  if (tag === 'textarea') return 'textarea';
  if (tag === 'select') return 'combobox';
  if (classes.contains('ui-tabs-anchor')) return 'tab';
  if (classes.contains('ui-accordion-header') && !hasControl(el)) {
    return 'header';
  }
  if (tag === 'a' || classes.contains('alink')) return 'link';
  const text = ownText(el);
  if (!text || text.length > MAX_NAME || tag === 'label') return '';
  const cursor = el.ownerDocument.defaultView.getComputedStyle(el).cursor;
  return el.onclick || cursor === 'pointer' ? 'clickable' : '';
}

/** The text beside a control that a reader takes for its label, or null. */
function neighbour(el, isBefore) {
  const next = (n) => isBefore ? n.previousSibling : n.nextSibling;
  let node = next(el);
  while (node && (node.nodeType === 8 ||
                  (node.nodeType === 3 && !node.data.trim()))) {
    node = next(node);
  }
  if (!node) return null;
  if (node.nodeType === 3) {
    return node.data.trim().length <= MAX_NAME ? node : null;
  }
  if (node.nodeType !== 1 || !node.textContent.trim()) return null;
  if (node.textContent.trim().length > MAX_NAME) return null;
  if (node.matches(CONTROLS) || hasControl(node) || !isVisible(node)) {
    return null;
  }
  // A block names a control only where the two stand alone together; among
  // several controls it is as likely to be a line of text.
  const isAlone = el.parentNode.querySelectorAll(CONTROLS).length <= 1;
  return INLINE_LABELS.has(node.localName) || isAlone ? node : null;
}

/** The name of a field and the nodes it was read from. */
function fieldName(el) {
  const labels = el.labels ? [...el.labels] : [];
  if (labels.length) {
    return [labels.map((l) => l.textContent).join(' '), labels];
  }
  const given = el.getAttribute('aria-label') || el.placeholder || el.title;
  if (given) return [given, []];
  const isBox = el.type === 'checkbox' || el.type === 'radio';
  const isAlone = el.parentNode.id !== 'area' &&
      el.parentNode.querySelectorAll(CONTROLS).length === 1;
  let label = null;
  if (isBox) label = neighbour(el, false);
  if (!label) label = neighbour(el, true);
  if (!label && isAlone) {
    label = neighbour(el, false) || neighbour(el.parentNode, true);
  }
  return label ? [label.textContent, [label]] : ['', []];
}

/** The name of an element that is not a field: the text on it. */
function faceName(el) {
  return clean(el.textContent) || clean(el.localName === 'input' && el.value) ||
      clean(el.title) || clean(el.getAttribute('aria-label')) ||
      clean(el.getAttribute('alt'));
}

/** `role: description` of a control, with the nodes its name came from. */
function describe(el, role, page) {
  const disabled = isDisabled(el) ? ' disabled' : '';
  if (role === 'button' || role === 'link' || role === 'clickable') {
    return [faceName(el) + disabled, []];
  }
  if (role === 'tab') {
    const isActive = el.closest('.ui-tabs-active, [aria-selected="true"]');
    return [faceName(el) + disabled + (isActive ? ' selected' : ''), []];
  }
  if (role === 'header') {
    const isOpen = el.getAttribute('aria-expanded') === 'true';
    return [faceName(el) + disabled + (isOpen ? ' expanded' : ''), []];
  }
  const [raw, used] = fieldName(el);
  const name = clean(raw).replace(/=/g, '-') + disabled;
  if (role === 'checkbox' || role === 'radio') {
    return [name + (el.checked ? ' checked' : ''), used];
  }
  if (role !== 'combobox') {
    const value = collapse(el.value).slice(0, page.value || MAX_VALUE);
    const blank = page.isExact && /\s$/.test(el.value) ? ` ${BLANK}` : '';
    return [`${name} = ${value}${blank}`, used];
  }
  const options = [...el.options].map(optionText).filter((text) => text);
  const value = [...el.selectedOptions].map(optionText).join(', ');
  return [collapse(`${name} = ${value} options ${options.join(' ; ')}`), used];
}

const optionText = (option) => collapse(option.text).replace(/;/g, ',');

/** Whether an element without controls holds text worth a line. */
function isText(el) {
  if (hasControl(el)) return false;
  if (/^(td|th|h[1-6])$/.test(el.localName)) return true;
  if (el.localName === 'li') return el.querySelector('ul, ol') === null;
  // A leaf with an id is one the page's script writes to: feedback, a sum.
  return el.id !== '' && el.childElementCount === 0 &&
      collapse(el.textContent).length <= MAX_NAME;
}

/** The description of an element that a mark speaks for. */
function say(mark, el) {
  const name = typeof mark.name === 'string' ? mark.name : mark.name(el);
  return mark.role.startsWith('text') && mark.role !== 'text' ?
      name : clean(name, MAX_MARKED);    // a value is no name
}

/** The state of a page: see text/states.py. Remembers the elements by id. */
function observe(document) {
  const items = [];           // [element, role, description, is it marked]
  const used = new Set();     // nodes whose text already names a control
  const page = dreamgym.marks(document) || {};
  const marks = page.marks || [];
  const walk = (parent) => {
    for (const el of parent.children) {
      if (SKIPPED.has(el.localName) || OWN_IDS.has(el.id)) continue;
      if (el.classList.contains('ui-helper-hidden-accessible')) continue;
      if (!isVisible(el)) {
        // display: contents and zero-sized wrappers have visible children.
        if (el.childElementCount) walk(el);
        continue;
      }
      const mark = marks.find((m) => el.matches(m.at));
      if (mark) {
        if (mark.role) items.push([el, mark.role, say(mark, el), true]);
        if (mark.inside) walk(el);
        continue;
      }
      const role = roleOf(el);
      if (role) {
        const [description, labels] = describe(el, role, page);
        labels.forEach((label) => used.add(label));
        items.push([el, role, description]);
        if (role === 'clickable' && hasControl(el)) walk(el);
      } else if (isText(el)) {
        const text = clean(el.textContent);
        if (text) items.push([el, 'text', text]);
        const pointer = [...el.querySelectorAll('*')].some((e) => roleOf(e));
        if (pointer) {
          if (text) items.pop();
          walk(el);
        }
      } else {
        walk(el);
      }
    }
  };
  walk(document.body);
  const isUsed = (el) => [...used].some((n) => n === el || el.contains(n));
  const elements = [], lines = [];
  let texts = 0;
  for (const [el, role, description, isMarked] of items) {
    if (role === 'text' && isMarked && !description) continue;
    if (role === 'text' && !isMarked && (
        ++texts > MAX_TEXTS || isUsed(el))) continue;
    elements.push(el);
    lines.push(`[${elements.length}] ${role}: ${description.trim()}`.trim());
  }
  found.set(document.defaultView, elements);
  return lines.join('\n');
}

const element = (win, id) => (found.get(win) || [])[id - 1];

/** To be called before acting in a frame: it has the focus, as it had it. */
function enter(win) {
  window.dreamgym.acting = win;
  const el = win.dreamgymParked;
  win.dreamgymParked = null;
  if (!el || !el.isConnected) return;
  win.dreamgymQuiet = true;
  el.focus({preventScroll: true});
  win.dreamgymQuiet = false;
}

/** Fields as they were before anybody typed; a form's reset alone does that
 *  (after `value = defaultValue` a textarea no longer follows its content). */
function resetFields(doc) {
  const form = doc.createElement('form');
  form.id = 'dreamgym-form';
  doc.body.append(form);
  const fields = [...doc.querySelectorAll('input, textarea, select')]
      .filter((el) => !el.form);
  for (const el of fields) el.setAttribute('form', form.id);
  form.reset();
  for (const el of fields) el.removeAttribute('form');
  form.remove();
  for (const own of doc.forms) own.reset();
}

/** Starts an episode in a loaded page; gives the instruction. */
function restart(win, seed) {
  const doc = win.document;
  // What the last episode left running or typed must not reach this one.
  const last = win.setTimeout(() => {}, 0);
  for (let i = win.dreamgymTimer || 1; i <= last; i++) win.clearTimeout(i);
  win.dreamgymTimer = last;
  win.dreamgymQuiet = true;
  if (doc.activeElement) doc.activeElement.blur();
  win.dreamgymQuiet = false;
  win.dreamgymParked = null;
  resetFields(doc);
  // Animations would make a state depend on when it is read; without them a
  // panel is open or closed as soon as it is clicked.
  if (win.jQuery) win.jQuery.fx.off = true;
  // Nor do lists and menus wait before they open.
  const ui = win.jQuery && win.jQuery.ui || {};
  if (ui.autocomplete) ui.autocomplete.prototype.options.delay = 0;
  if (ui.menu) ui.menu.prototype.delay = 0;
  win.core.EPISODE_MAX_TIME = 1e9;
  win.Math.seedrandom(seed);
  win.core.startEpisodeReal();
  win.core.clearTimer();     // the countdown display, once a second
  // The second click of a double click would start another episode.
  win.core.cover_div.onclick = null;
  win.dreamgymIsLive = true;
  const utterance = win.core.getUtterance();
  return collapse(
      typeof utterance === 'string' ? utterance : utterance.utterance);
}

// A timer of delay 0 lets the page's own timers of delay 0 run first.
const tick = () => new Promise((resolve) => setTimeout(resolve, 0));
const frames = [];

/** Loads a page into frame i, which is made if there is none yet. */
function load(i, url, timeout) {
  while (frames.length <= i) {
    const frame = document.createElement('iframe');
    frame.style.cssText = 'width:340px;height:230px;border:0';
    document.body.append(frame);
    frames.push(frame);
  }
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
        () => reject(new Error(`page not loaded in ${timeout} s`)),
        1000 * timeout);
    frames[i].onload = () => { clearTimeout(timer); resolve(); };
    frames[i].src = url;
  });
}

/** [[frame, url or '', seed]] -> [{instruction, state} or {error}]. */
async function reset(json, timeout) {
  const begin = async ([i, url, seed]) => {
    try {
      if (url) await load(i, url, timeout);
      const instruction = restart(frames[i].contentWindow, seed);
      await tick();
      await tick();
      return {instruction, state: observe(frames[i].contentDocument)};
    } catch (error) {
      return {error: String(error)};
    }
  };
  return JSON.stringify(await Promise.all(JSON.parse(json).map(begin)));
}

function read(i, error) {
  try {
    const win = frames[i].contentWindow;
    if (!win.dreamgymIsLive) return {error: 'the page was left'};
    const done = win.WOB_DONE_GLOBAL;
    return {invalid: error, done, raw: Number(win.WOB_RAW_REWARD_GLOBAL),
            state: done ? '' : observe(win.document)};
  } catch (failure) {
    return {error: String(failure)};
  }
}

/** [[frame, verb, id, argument]] -> [{state, done, raw, invalid} or {error}].
 *
 * An empty verb only reads the page (its action came as a user's input).
 */
async function step(json) {
  const rows = JSON.parse(json);
  const errors = rows.map(([i, verb, id, argument]) => {
    if (!verb) return '';
    try {
      enter(frames[i].contentWindow);
      return dreamgym.act(frames[i].contentWindow, verb, id, argument);
    } catch (failure) {
      return String(failure);
    }
  });
  dreamgym.acting = null;
  await tick();
  await tick();
  return JSON.stringify(rows.map(([i], n) => read(i, errors[n])));
}

window.dreamgym = {
  acting: null,     // the window that input goes to right now
  BLANK, collapse, element, enter, frames, isDisabled, isVisible, observe, optionText,
  reset, restart, roleOf, step};
})();
