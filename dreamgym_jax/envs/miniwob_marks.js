// What some MiniWoB pages show by a picture, a style or a place, in words.
//
//   dreamgym.marks(document) -> {marks, value, isExact} of a page, or undefined
//
// A person sees a bin, a filled star, a slider; a text policy has to be told.
// A mark gives the elements of a page that match `at` a line of their own:
// `role` and what `name` says (a text, or a function of the element). Without
// a role they are left out of the state, as adornment or as said elsewhere.
// `inside` goes on with what the element holds. The first mark that matches
// counts. What is marked is neither cut nor limited in number. All else, and
// pages without an entry here, is read by the rules of miniwob_page.js. `value` is how many characters of a field's value are shown;
// `isExact` shows a blank at its end as a sign of its own.
(() => {
'use strict';
if (!window.dreamgym) return;     // a MiniWoB page, not the host

const {collapse, BLANK} = window.dreamgym;
const text = (el) => collapse(el.textContent);
const part = (el, selector) => {
  const found = el.querySelector(selector);
  return found ? text(found) : '';
};
const when = (is, mark) => is ? ` ${mark}` : '';
const has = (el, name) => el.classList.contains(name);
// The focus is taken from a frame while input goes to another; see `enter`.
const isFocused = (el) => el.ownerDocument.activeElement === el ||
    el.ownerDocument.defaultView.dreamgymParked === el;
const skip = (at) => ({at});
const icon = (at, name) => ({at, role: 'button', name});

const CALENDAR = [
  {at: '.ui-datepicker-title', role: 'text', name: text},
  skip('.ui-datepicker-calendar thead'),
];

const FLIGHTS = [
  ...CALENDAR,
  {at: '.flight-summary', role: 'text', name: text},
  {at: '.flight-duration', role: 'text', name: text},
  skip('.flight-depart, .flight-arrive'),
];

const MAIL = [
  {at: '.email-thread', role: 'clickable', inside: true,
   name: (el) => `${part(el, '.email-sender')} - ` +
       part(el, '.email-subject')},
  skip('.email-thread > .email-left, .email-time'),
  icon('.trash', 'Delete'),
  icon('.star', (el) => 'Star' + when(has(el, 'clicked'), 'on')),
  icon('#open-search', 'Open search'),
  icon('#search-cancel', 'Close search'),
  icon('#close-email', 'Back'),
  icon('.email-reply', 'Reply'),
  icon('.email-forward', 'Forward'),
  icon('#close-reply, #close-forward', 'Cancel'),
  icon('#send-reply, #send-forward', 'Send'),
  {at: '.email-header .email-sender', role: 'text',
   name: (el) => `from: ${text(el)}`},
  {at: '.email-header .email-subject, #email > .email-body, .reply-info, ' +
       '.reply-subject', role: 'text', name: text},
  {at: '.forward-subject', role: 'text', name: text},
  // Whose letter it is was on the screen before, and a person remembers it.
  {at: '.forward-info', role: 'text', inside: true,
   name: (el) => 'from: ' + part(el.ownerDocument, '#email .email-sender')},
  {at: '#forward-text', role: 'textarea', name: (el) => {
    const letter = el.ownerDocument.querySelector('#email > .email-body');
    const isSame = el.value === letter.textContent;
    return `${isSame ? 'letter' : 'letter changed'} = ${collapse(el.value)}`;
  }},
];

const PAGES_OF_RESULTS = [
  {at: '#pagination li.active > a', role: 'link',
   name: (el) => `${text(el)} selected`},
];

const POST = [
  {at: '.media > .details', role: 'text',
   name: (el) => `${part(el, '.name')} ${part(el, '.username')}`},
  skip('.media > .body'),
];
// The symbols below a post; the class of each is the word for it.
const SYMBOLS = 'span.reply, span.retweet, span.like, span.share, span.more';
const symbol = (el) => {
  const name = el.className.split(' ')[0];
  return name[0].toUpperCase() + name.slice(1);
};
const POST_SWITCHES = [
  ...POST,
  {at: SYMBOLS, role: 'checkbox',
   name: (el) => symbol(el) + when(has(el, 'active'), 'checked')},
];

const SLIDERS = [
  {at: '.ui-slider-handle', role: 'slider', name: (el) => {
    const slider = el.ownerDocument.defaultView.jQuery(el.parentNode);
    const {min, max} = slider.slider('option');
    return `${slider.slider('value')} from ${min} to ${max}`;
  }},
  skip('#val, [id^="val-"]'),
];

const course = (el) => el.closest('.food-item');
const quantity = (el) => Number(course(el).dataset.quantity);
const TYPES = '.types img';

const PAGES = {
  'book-flight': {marks: FLIGHTS},
  'buy-ticket': {marks: [
    {at: '.flight-duration', role: 'text', name: text}]},
  'choose-date': {marks: CALENDAR},
  // The button pushed last has the focus, and a page shows it by a frame.
  'click-button-sequence': {marks: [
    {at: '#area button', role: 'button',
     name: (el) => text(el) + when(isFocused(el), 'focused')}]},
  'click-color': {marks: [
    {at: '#area .color', role: 'clickable',
     name: (el) => el.style.backgroundColor}]},
  'copy-paste': {value: 400, isExact: true},
  'email-inbox': {marks: MAIL},
  'find-greatest': {marks: [
    {at: '.card', role: 'radio',
     name: (el) => text(el) + when(!has(el, 'hidden'), 'checked')}]},
  'find-word': {marks: [{at: '#area > p', role: 'text', name: text}]},
  'form-sequence': {marks: SLIDERS},
  // A list drawn over the real one, which takes choices as well.
  'form-sequence-3': {marks: [
    skip('.selectric, .selectric-items, .selectric-input')]},
  'guess-number': {marks: [{at: '#feedback > div', role: 'text', name: text}]},
  'login-user-popup': {marks: [
    {at: '#popup > p:not(:has(button))', role: 'text', name: text}]},
  'navigate-tree': {marks: [
    {at: '.folder', role: 'header', name: (el) => text(el) +
        when(has(el.parentNode, 'collapsable'), 'expanded')},
    {at: '.file', role: 'clickable', name: text}]},
  'odd-or-even': {marks: [
    {at: '.row', role: 'text', inside: true,
     name: (el) => part(el, '.display-number')},
    skip('.display-number'),
    {at: '.odd, .even', role: 'radio',
     name: (el) => text(el) + when(has(el, 'selected'), 'checked')}]},
  'order-food': {marks: [
    skip('.food-desc, .quantity'),
    icon('.add', (el) => [
      `+ ${part(course(el), '.item-name')}`,
      ...[...course(el).querySelectorAll(TYPES)].map((img) => img.title),
    ].join(', ') + when(quantity(el), `x${quantity(el)}`)),
    icon('.remove', (el) => `- ${part(course(el), '.item-name')}`)]},
  'phone-book': {marks: [
    ...PAGES_OF_RESULTS,
    {at: '.property a', role: 'link',
     name: (el) => `${el.className}: ${text(el)}`}]},
  'scroll-text': {value: 2000},
  'search-engine': {marks: PAGES_OF_RESULTS},
  'social-media': {marks: [
    ...POST,
    icon(SYMBOLS, symbol),
    {at: '.controls li', role: 'clickable', name: text}]},
  'social-media-all': {marks: POST_SWITCHES},
  'social-media-some': {marks: POST_SWITCHES},
  'terminal': {marks: [
    {at: '.terminal-line', role: 'text',
     name: (el) => `${part(el, '.user')} ` +
         el.querySelector('.command').textContent.replace(/ $/, BLANK)},
    // Not the date, which would differ every day.
    {at: '.terminal-output', role: 'text',
     name: (el) => text(el).replace(/^Last login.*/, '')},
    skip('#terminal-header'),
    // What it is typed into holds nothing: the page moves each key on.
    {at: '#terminal-target', role: 'textbox', name: 'Keyboard ='}]},
  'text-transform': {marks: [{at: '#captcha', role: 'text', name: text}]},
  'use-slider': {marks: SLIDERS},
  'use-spinner': {marks: [
    icon('.ui-spinner-up', 'Up'), icon('.ui-spinner-down', 'Down')]},
};
const VARIANT = new RegExp(
    '^(book-flight|choose-date|copy-paste|email-inbox|use-slider)-.*');

/** What is marked on the page; undefined where nothing is. */
function marks(document) {
  const name = document.URL.split('/').pop().replace(/\.html.*/, '');
  return PAGES[name.replace(VARIANT, '$1')];
}

Object.assign(window.dreamgym, {marks});
})();
