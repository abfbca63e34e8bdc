// The list of keys.

const PAGE_SIZE = 50;

/** Cursors of the pages up to the one that is shown; the first has none. */
let cursors = [null];
let nextCursor = null;
let listRequest = 0;

/** What keys are called, for the audit trail. */
const names = new Map();

async function loadList() {
  listRequest += 1;
  const request = listRequest;
  const body = $('list-body');
  body.ariaBusy = 'true';
  clearProblems($('filter'));
  let page;
  try {
    page = await call('GET', `/keys?${listQuery()}`);
  } catch (error) {
    if (request === listRequest && signedIn) showListFailure(error);
    return;
  } finally {
    if (request === listRequest) body.ariaBusy = 'false';
  }
  if (request === listRequest && signedIn) showList(page);
}

function listQuery() {
  const query = new URLSearchParams({ limit: PAGE_SIZE });
  for (const name of ['owner', 'environment', 'status']) {
    const value = $(`filter-${name}`).value.trim();
    if (value) query.set(name, value);
  }
  const cursor = cursors.at(-1);
  if (cursor) query.set('cursor', cursor);
  return query;
}

function showListFailure(error) {
  $('pages').hidden = true;
  $('list-body').replaceChildren();
  if (error.field && fieldElement($('filter'), error.field)) showFailure($('filter'), error);
  else $('list-body').replaceChildren(failurePanel(error, loadList));
}

function showList({ keys, unreadable = [], next_cursor: next }) {
  nextCursor = next;
  keys.forEach(remember);
  const none = keys.length || unreadable.length ? [] : [emptyList()];
  $('list-body').replaceChildren(...unreadableKeys(unreadable), ...(keys.length ? [keyTable(keys)] : none));
  const first = (cursors.length - 1) * PAGE_SIZE;
  const count = keys.length ? `${number(first + 1)}–${number(first + keys.length)}` : '0';
  say($('page-count'), cursors.length === 1 && !next ? plural(keys.length, 'key') : `Keys ${count}, newest first`);
  $('pages').hidden = false;
  $('newer').hidden = $('older').hidden = cursors.length === 1 && !next;
  $('newer').disabled = cursors.length === 1;
  $('older').disabled = !next;
}

/** The stored keys that cannot be read, which no listing may pass over in silence. */
function unreadableKeys(unreadable) {
  if (!unreadable.length) return [];
  return [h('div', { class: 'failure', role: 'alert' },
    h('p', null, `${plural(unreadable.length, 'stored key')} cannot be read:`),
    h('ul', null, unreadable.map(({ id, detail }) => h('li', null, h('code', null, id), ' ', detail))))];
}

function keyTable(keys) {
  const columns = ['Name', 'Owner', 'Environment', 'Status', 'Scopes', 'Last used', 'Created'];
  return h('table', { class: 'keys' },
    h('thead', null, h('tr', null, columns.map((column) => h('th', { scope: 'col' }, column)))),
    h('tbody', null, keys.map(keyRow)));
}

function keyRow(key) {
  const cell = (label, ...content) => h('td', { 'data-label': label }, ...content);
  return h('tr', { 'data-status': key.status },
    h('th', { scope: 'row' },
      h('a', { href: `#${key.id}` }, key.name),
      h('span', { class: 'start' }, `${key.credentials.at(-1)?.start || key.prefix}…`)),
    cell('Owner', key.owner ?? none('–')),
    cell('Environment', key.environment),
    cell('Status', badge(key.status)),
    cell('Scopes', someScopes(key.scopes)),
    cell('Last used', key.last_used_at ? when(key.last_used_at) : none('Never')),
    cell('Created', when(key.created_at)));
}

function someScopes(scopes) {
  const shown = scopes.slice(0, 2);
  const more = scopes.length - shown.length;
  return [scopeList(shown), more ? h('span', { class: 'more', title: scopes.join(' ') }, ` +${more}`) : null];
}

function emptyList() {
  const filtered = ['owner', 'environment', 'status'].some((name) => $(`filter-${name}`).value.trim());
  if (!filtered) return h('p', { class: 'empty' }, 'There are no keys yet.');
  return h('div', { class: 'empty' },
    h('p', null, 'No key matches.'),
    h('p', { class: 'hint' }, 'Owner and environment are compared whole.'));
}

/** Offers what is known of keys in the filter and in the form of a new one. */
function remember(key) {
  names.set(key.id, key.name);
  offer('owners', key.owner);
  offer('environments', key.environment);
  offer('prefixes', key.prefix);
}

function offer(list, value) {
  const known = $(list);
  if (!value || known.children.length >= 500) return;
  if (![...known.children].some((option) => option.value === value)) known.append(h('option', { value }));
}

function firstPage() {
  cursors = [null];
  return loadList();
}

// ---- What the user does ----

let typing;

$('filter').addEventListener('input', ({ target }) => {
  if (target.tagName === 'SELECT') return;
  clearTimeout(typing);
  typing = setTimeout(firstPage, 300);
});

$('filter-status').addEventListener('change', firstPage);

$('filter').addEventListener('submit', (event) => {
  event.preventDefault();
  clearTimeout(typing);
  firstPage();
});

$('filter').addEventListener('reset', () => {
  clearTimeout(typing);
  // The fields are emptied after the event.
  typing = setTimeout(firstPage);
});

$('older').addEventListener('click', async () => {
  cursors.push(nextCursor);
  await turnPage();
});

$('newer').addEventListener('click', async () => {
  cursors.pop();
  await turnPage();
});

async function turnPage() {
  $('newer').disabled = $('older').disabled = true;
  await loadList();
  $('list-title').focus();
}
