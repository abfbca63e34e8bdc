// Forms in dialogs: opening and closing them, and what is wrong where.

/** Opens a dialog whose form calls `submit`. What that throws is shown in the form; what it returns
    is called when the dialog is closed. */
function openDialog(dialog, submit) {
  const form = dialog.querySelector('form');
  clearProblems(form);
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (form.ariaBusy === 'true') return;
    clearProblems(form);
    form.ariaBusy = 'true';
    try {
      const then = await submit();
      dialog.close();
      then?.();
    } catch (error) {
      if (dialog.open) showFailure(form, error);
      // It was closed while the request was under way.
      else if (!$('signed-in').hidden) notice(explain(error), 'failed');
    } finally {
      form.ariaBusy = 'false';
    }
  };
  dialog.showModal();
}

for (const button of document.querySelectorAll('[data-close]')) {
  button.addEventListener('click', () => button.closest('dialog').close());
}

/** What the user entered cannot be sent. */
class Invalid extends Error {
  constructor(field, reason) {
    super(reason);
    this.field = field;
  }
}

/** Shows a failure at the field it is about, else above the fields. */
function showFailure(form, error) {
  const field = error.field && fieldElement(form, error.field);
  if (!field) {
    const alert = form.querySelector('.alert');
    say(alert, error instanceof Invalid ? error.message : explain(error));
    alert.scrollIntoView({ block: 'nearest' });
    return;
  }
  const described = field.getAttribute('aria-describedby').split(' ').map($);
  const message = described.find((element) => element.classList.contains('error'));
  say(message, error instanceof Invalid ? error.message : fieldText(field, error));
  if (field.tagName === 'FIELDSET') {
    field.querySelector('input, button').focus();
  } else {
    field.setAttribute('aria-invalid', 'true');
    field.focus();
  }
}

/** The element for a name such as `limits[0].quota`, or the nearest one around it. */
function fieldElement(form, name) {
  for (let path = name; path;) {
    const field = form.querySelector(`[data-field="${CSS.escape(path)}"]`);
    if (field) return field;
    path = path.slice(0, Math.max(path.lastIndexOf('.'), path.lastIndexOf('['), 0));
  }
  return null;
}

/** The reason without the field's name in front; for an item of a list, with the item. */
function fieldText(field, { field: name, detail }) {
  const own = detail.startsWith(`${name}: `) ? detail.slice(name.length + 2) : detail;
  // Where in the JSON it is says nothing to whoever has filled in a form.
  const reason = own.replace(/ at line \d+ column \d+$/, '');
  const item = /\[(\d+)\]$/.exec(name);
  const entered = item && field.tagName === 'TEXTAREA' ? words(field.value)[item[1]] : null;
  return entered && !reason.includes(entered) ? `“${entered}”: ${reason}` : sentence(reason);
}

function clearProblems(form) {
  for (const element of form.querySelectorAll('.alert, .error')) say(element, null);
  for (const element of form.querySelectorAll('[aria-invalid]')) element.removeAttribute('aria-invalid');
}

/** What is separated by spaces, commas or lines. */
const words = (text) => text.split(/[\s,]+/).filter(Boolean);

/** A whole number, or what is wrong with it. */
function whole(input, least) {
  const value = Number(input.value.trim() || 'none');
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new Invalid(input.dataset.field, `A whole number from ${least} is needed.`);
}

function fillUnits(select, chosen) {
  select.replaceChildren(...UNITS.map(([unit, length]) => h('option', { value: length, selected: length === chosen }, unit)));
}

// ---- Rows that can be added and removed ----

let rowCount = 0;

const CONTROLS = 'input, textarea';

/** Adds a row of labelled fields; `rows` are numbered anew whenever one goes. */
function addRow(rows, what, fields, renumber) {
  rowCount += 1;
  const error = h('p', { id: `row-${rowCount}-error`, class: 'error', hidden: true });
  for (const field of fields) field.querySelector(CONTROLS).setAttribute('aria-describedby', error.id);
  const remove = h('button', {
    type: 'button',
    class: 'small quiet',
    onclick: () => {
      // The focus goes on to what is next, rather than back to the top.
      const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector('input');
      row.remove();
      renumber(rows);
      (next ?? rows.parentElement.querySelector(':scope > button')).focus();
    },
  }, 'Remove');
  remove.setAttribute('aria-label', `Remove ${what}`);
  const row = h('div', { class: 'row', role: 'group', 'aria-label': what }, h('div', { class: 'inline' }, fields, remove), error);
  rows.append(row);
  renumber(rows);
  return row;
}

function labelled(text, control) {
  return h('label', { class: 'stacked' }, h('span', null, text), control);
}

function addLimit(limit = { name: '', quota: '', window_seconds: MINUTE }) {
  const [count, , length] = inUnits(limit.window_seconds);
  const units = h('select', { 'aria-label': 'Unit' });
  fillUnits(units, length);
  const row = addRow($('new-limits'), 'limit', [
    labelled('Name', h('input', { name: 'name', value: limit.name, placeholder: 'burst', autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off' })),
    labelled('Requests', h('input', { name: 'quota', value: limit.quota, inputmode: 'numeric', autocomplete: 'off' })),
    labelled('In', h('input', { name: 'window_seconds', value: count, inputmode: 'numeric', autocomplete: 'off' })),
  ], numberLimits);
  row.querySelector('.inline').lastChild.before(units);
  return row;
}

function numberLimits(rows) {
  [...rows.children].forEach((row, index) => {
    for (const input of row.querySelectorAll('input')) input.dataset.field = `limits[${index}].${input.name}`;
  });
}

function readLimits() {
  return [...$('new-limits').children].map((row) => {
    const [name, quota, count] = row.querySelectorAll('input');
    return {
      name: name.value.trim(),
      quota: whole(quota, 1),
      window_seconds: whole(count, 1) * Number(row.querySelector('select').value),
    };
  });
}

function addMetadata([name, value] = ['', '']) {
  return addRow($('new-metadata'), 'metadata', [
    labelled('Name', h('input', { name: 'name', value: name, autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off' })),
    labelled('Value', h('textarea', { name: 'value', rows: 1, autocomplete: 'off' }, value)),
  ], nameMetadata);
}

/** The field of a value is named after what is entered as its name, as the server does. */
function nameMetadata(rows) {
  for (const row of rows.children) {
    const [name, value] = row.querySelectorAll(CONTROLS);
    value.dataset.field = `metadata.${name.value}`;
  }
}

function readMetadata() {
  nameMetadata($('new-metadata'));
  const metadata = new Map();
  for (const row of $('new-metadata').children) {
    const [name, value] = row.querySelectorAll(CONTROLS);
    if (metadata.has(name.value)) throw new Invalid(value.dataset.field, 'Two entries have the same name.');
    metadata.set(name.value, value.value);
  }
  return Object.fromEntries(metadata);
}
