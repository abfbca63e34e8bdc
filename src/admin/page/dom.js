// Building and wording. What comes from the server becomes a text node or a harmless attribute and
// never markup: there is no innerHTML in these files, and the page's policy on trusted types makes
// the browser refuse it.

const $ = (id) => document.getElementById(id);

/** An element. Attributes that are null or false are left out, `on…` ones are listeners. */
function h(tag, attributes, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes, ...children) {
  return dress(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Shows a text, or hides the element where there is none. */
function say(element, text) {
  element.textContent = text ?? '';
  element.hidden = !text;
}

/** A sequence of parts with something between them. */
function joined(parts, between) {
  return parts.flatMap((part, index) => (index ? [between, part] : [part]));
}

// ---- Time ----

/** How much the server's clock is ahead of this one, in milliseconds. */
let skew = 0;

const now = () => Date.now() + skew;

const RELATIVE = new Intl.RelativeTimeFormat('en', { numeric: 'always' });
const MOMENT = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' });
const SECOND = 1;
const MINUTE = 60;
const HOUR = 3_600;
const DAY = 86_400;
const UNITS = [['seconds', SECOND], ['minutes', MINUTE], ['hours', HOUR], ['days', DAY]];

/** How long ago or ahead a time is, kept up to date by `tick`. */
function when(time) {
  const attributes = { datetime: time, title: MOMENT.format(new Date(time)), 'data-relative': true };
  return h('time', attributes, relative(time));
}

function relative(time) {
  const exact = (Date.parse(time) - now()) / 1_000;
  // What ends in a day does so in 23 hours and 59 minutes a moment later.
  const seconds = exact > 0 ? exact * 1.01 : exact;
  const units = [['year', 365 * DAY], ['month', 30 * DAY], ['day', DAY], ['hour', HOUR], ['minute', MINUTE]];
  const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) ?? [];
  if (unit) return RELATIVE.format(Math.trunc(seconds / length), unit);
  return seconds > 0 ? 'in less than a minute' : 'just now';
}

/** A time as date and hour. */
function moment(time) {
  return h('time', { datetime: time, title: time }, MOMENT.format(new Date(time)));
}

function tick() {
  for (const element of document.querySelectorAll('[data-relative]')) {
    element.textContent = relative(element.dateTime);
  }
}

/** Seconds in the largest unit that divides them: [2, 'hours', 3600]. */
function inUnits(seconds) {
  const [unit, length] = UNITS.findLast(([, length]) => seconds % length === 0) ?? UNITS[0];
  return [seconds / length, unit, length];
}

/** As in `100 per minute`, `50 per 10 seconds`. */
function limitText({ quota, window_seconds: seconds }) {
  const [count, unit] = inUnits(seconds);
  return `${number(quota)} per ${count === 1 ? unit.slice(0, -1) : `${number(count)} ${unit}`}`;
}

/** As in `1 second`. */
function plural(count, one) {
  return `${number(count)} ${one}${count === 1 ? '' : 's'}`;
}

const number = (value) => value.toLocaleString('en');

// ---- Pieces ----

function badge(status) {
  const text = status[0].toUpperCase() + status.slice(1);
  return h('span', { class: 'badge', 'data-status': status }, text);
}

function scopeList(scopes) {
  if (!scopes.length) return h('span', { class: 'none' }, 'None');
  return h('span', { class: 'scopes' }, joined(scopes.map((scope) => h('code', null, scope)), ' '));
}

function none(text) {
  return h('span', { class: 'none' }, text);
}

/** A failure, with a button that tries again. */
function failurePanel(error, again) {
  return h('div', { class: 'failure', role: 'alert' },
    h('p', null, explain(error)),
    h('button', { type: 'button', onclick: again }, 'Try again'));
}

/** What has happened, above everything else, until the next thing happens. */
function notice(text, kind = 'done') {
  $('notice').dataset.kind = kind;
  say($('notice'), text);
}
