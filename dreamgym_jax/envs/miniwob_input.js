// Actions on a MiniWoB page through script; follows miniwob_page.js.
//
//   dreamgym.act(window, verb, id, arg)   -> '' or why it cannot be done
//   dreamgym.check(window, verb, id, arg) -> the same, without doing it
//
// `act` sends the events a user's input makes, in a user's order: the handlers
// of the page run as they do for a person, only `isTrusted` differs.
(() => {
'use strict';
if (!window.dreamgym) return;     // a MiniWoB page, not the host

const {element, isDisabled, isVisible, optionText, roleOf} = window.dreamgym;
const FOCUSABLE = 'a[href], button, input, select, textarea, [tabindex]';
const KEYS = new Map(Object.entries({    // name -> the browser's keyCode
  Backspace: 8, Tab: 9, Enter: 13, Escape: 27, Space: 32, PageUp: 33,
  PageDown: 34, End: 35, Home: 36, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39,
  ArrowDown: 40, Delete: 46}));

/** Why the action cannot be carried out; '' when it can. */
function check(win, verb, id, argument) {
  if (verb === 'noop') return '';
  const el = element(win, id);
  if (!el) return `no element [${id}]`;
  if (!el.isConnected || !isVisible(el)) return `element [${id}] is gone`;
  if (isDisabled(el) && verb !== 'hover') return `[${id}] is disabled`;
  const role = roleOf(el);
  if (verb === 'fill' || verb === 'clear') {
    if (role !== 'textbox' && role !== 'textarea') return 'not a text field';
    if (el.readOnly) return `[${id}] is read-only`;
    const probe = el.cloneNode();    // a number field takes no letters
    probe.value = argument;
    return probe.value === argument ? '' : `[${id}] takes no such text`;
  }
  if (verb === 'select_option') {
    if (role !== 'combobox') return 'not a list';
    return option(el, argument) < 0 ? `no option ${argument}` : '';
  }
  if (verb === 'press' && !KEYS.has(argument) && argument.length !== 1) {
    return `unknown key ${argument}`;
  }
  return '';
}

const option = (el, text) =>
    [...el.options].findIndex((o) => optionText(o) === text && !o.disabled);

/** The options chosen once that of the text is, for a user's input. */
function optionIndex(win, id, text) {
  const list = element(win, id), index = option(list, text);
  if (!list.multiple) return [index];
  return [...list.options].map((o) => o.index)
      .filter((i) => list.options[i].selected !== (i === index));
}

function send(el, kind, type, extra) {
  const win = el.ownerDocument.defaultView;
  return el.dispatchEvent(new win[kind](type, {
    bubbles: !/enter$|leave$/.test(type), cancelable: true, composed: true,
    view: win, ...extra}));
}

/** A key event; `keyCode` is what jQuery UI reads. */
function sendKey(el, type, key) {
  const keyCode = KEYS.get(key) || key.toUpperCase().charCodeAt(0);
  return send(el, 'KeyboardEvent', type, {key, keyCode, which: keyCode});
}

function hover(el) {
  send(el, 'PointerEvent', 'pointerover');
  for (const type of ['mouseover', 'mouseenter', 'mousemove']) {
    send(el, 'MouseEvent', type);
  }
}

function click(el, detail = 1) {
  hover(el);
  send(el, 'PointerEvent', 'pointerdown', {detail});
  if (send(el, 'MouseEvent', 'mousedown', {detail})) {
    const target = el.closest(FOCUSABLE);
    const active = el.ownerDocument.activeElement;
    if (target) target.focus({preventScroll: true});
    else if (active) active.blur();
  }
  // The page may have disabled or removed the element by now: a user's click
  // would end there as well. click() runs the default action too.
  if (!el.isConnected || isDisabled(el)) return;
  send(el, 'PointerEvent', 'pointerup', {detail});
  send(el, 'MouseEvent', 'mouseup', {detail});
  el.click();
}

/** Sets a field's value past any property the page put on the element. */
function setValue(el, value) {
  const win = el.ownerDocument.defaultView;
  const proto = el.localName === 'textarea' ?
      win.HTMLTextAreaElement.prototype : win.HTMLInputElement.prototype;
  Object.getOwnPropertyDescriptor(proto, 'value').set.call(el, value);
  send(el, 'InputEvent', 'input', {data: value, inputType: 'insertText'});
}

function fill(el, value) {
  el.focus({preventScroll: true});
  if (isDisabled(el)) return;   // as in click: the focus handler did this
  const key = value.slice(-1) || 'Backspace';
  sendKey(el, 'keydown', key);
  setValue(el, value);
  sendKey(el, 'keyup', key);
  send(el, 'Event', 'change');
}

function select(el, index) {
  el.focus({preventScroll: true});
  if (isDisabled(el)) return;
  // In a list of several choices each is switched on and off by itself.
  if (el.multiple) el.options[index].selected = !el.options[index].selected;
  else el.selectedIndex = index;
  send(el, 'Event', 'input');
  send(el, 'Event', 'change');
}

/** Where the next key goes in a field: behind the text, in both modes. */
function moveCaret(win, id) {
  const el = element(win, id);
  el.focus({preventScroll: true});
  const isNumber = el.type === 'number';   // has no caret to set
  if (el.value && el.setSelectionRange && !isNumber) {
    el.setSelectionRange(el.value.length, el.value.length);
  }
}

/** One key, with the default actions that matter on these pages. */
function press(el, name) {
  el.focus({preventScroll: true});
  if (isDisabled(el)) return;
  const role = roleOf(el), isField = role === 'textbox' || role === 'textarea';
  const key = name === 'Space' ? ' ' : name;
  const goesOn = sendKey(el, 'keydown', key) &&
      (key.length > 1 && key !== 'Enter' ||
       sendKey(el, 'keypress', key));
  if (goesOn) {
    if (isField && key.length === 1) setValue(el, el.value + key);
    else if (isField && key === 'Backspace') {
      setValue(el, el.value.slice(0, -1));
    } else if (key === 'Enter' && role === 'textbox') {
      send(el, 'Event', 'change');
      if (el.form) el.form.requestSubmit();
    } else if (key === 'Enter' && /^(button|link|tab)$/.test(role)) el.click();
    else if (key === ' ' && /^(button|checkbox|radio)$/.test(role)) el.click();
    else if (key === 'Tab') {
      const all = [...el.ownerDocument.querySelectorAll(FOCUSABLE)].filter(
          (e) => isVisible(e) && !isDisabled(e));
      const next = all[all.indexOf(el) + 1];
      if (next) next.focus({preventScroll: true});
      else el.blur();
    }
  }
  sendKey(el, 'keyup', key);
}

/** Carries out one action; '' or why it cannot be carried out. */
function act(win, verb, id, argument) {
  const error = check(win, verb, id, argument);
  if (error || verb === 'noop') return error;
  const el = element(win, id);
  if (verb === 'click') click(el);
  else if (verb === 'hover') hover(el);
  else if (verb === 'focus') el.focus({preventScroll: true});
  else if (verb === 'fill') fill(el, argument);
  else if (verb === 'clear') fill(el, '');
  else if (verb === 'select_option') select(el, option(el, argument));
  else if (verb === 'press') press(el, argument);
  else if (verb === 'dblclick') {
    click(el);
    if (el.isConnected) click(el, 2);
    if (el.isConnected) send(el, 'MouseEvent', 'dblclick', {detail: 2});
  } else return `unknown verb ${verb}`;
  return '';
}

Object.assign(window.dreamgym, {act, check, moveCaret, optionIndex});
})();
