// One key: what it is, what can be done to it, how it is used and what has happened to it.

let shownKey = null;
let keyRequest = 0;
let period = PERIODS[0];
let asTable = false;

/** Loads and shows a key. The focus goes to its title, or stays where it was. */
async function loadKey(id, { stay = false } = {}) {
  keyRequest += 1;
  const request = keyRequest;
  const section = $('key');
  if (!stay) section.replaceChildren(backLink(), h('p', { class: 'empty' }, 'Loading…'));
  let key;
  try {
    key = await call('GET', `/keys/${encodeURIComponent(id)}`);
  } catch (error) {
    if (request !== keyRequest || !signedIn) return;
    section.replaceChildren(
      backLink(),
      h('h1', { id: 'key-title', tabindex: -1 }, 'Key'),
      failurePanel(error, () => loadKey(id)));
    $('key-title').focus();
    return;
  }
  if (request !== keyRequest || !signedIn) return;
  const focused = stay ? document.activeElement?.id : null;
  showKey(key);
  ($(focused || 'key-title') ?? $('key-title')).focus();
  loadUse(key, request);
  loadEvents(key, request);
}

/** After a change: says so and shows the key as it is now. */
function keyChanged(text, { propagated = true } = {}) {
  if (propagated) notice(text);
  else notice(`${text} Other servers could not be notified, and may go by the old state until their caches expire.`, 'failed');
  return loadKey(shownKey.id, { stay: true });
}

function isOwn(key) {
  const own = ownStart();
  return own !== '' && key.credentials.some(({ start }) => start === own);
}

function backLink() {
  return h('p', { class: 'back' }, h('a', { href: '#' }, 'All keys'));
}

function showKey(key) {
  shownKey = key;
  remember(key);
  document.title = `${key.name} – API keys`;
  $('key').replaceChildren(
    backLink(),
    h('div', { class: 'title' },
      h('div', null,
        h('h1', { id: 'key-title', tabindex: -1 }, key.name, ' ', badge(key.status)),
        h('p', { class: 'id' }, h('code', null, key.id))),
      h('div', { class: 'actions', role: 'group', 'aria-label': 'Actions' }, actions(key))),
    ...remarks(key),
    h('div', { class: 'halves' },
      panel('Use', h('div', { id: 'use' }, h('p', { class: 'empty' }, 'Loading…'))),
      panel('Details', details(key))),
    panel('Credentials', ...credentials(key)),
    panel('Events', h('div', { id: 'events' }, h('p', { class: 'empty' }, 'Loading…'))));
}

function panel(title, ...content) {
  const id = `panel-${title.toLowerCase()}`;
  return h('section', { class: 'panel', 'aria-labelledby': id }, h('h2', { id }, title), ...content);
}

function actions(key) {
  const button = (id, text, act, kind) => h('button', { id: `do-${id}`, type: 'button', class: kind, onclick: () => act(key) }, text);
  const all = [button('refresh', 'Refresh', () => loadKey(key.id, { stay: true }))];
  if (key.status === 'revoked') return all;
  all.push(button('edit', 'Edit', editKey));
  if (key.status !== 'expired') all.push(button('rotate', 'Rotate', rotateKey));
  // One id for both, so that the focus stays when one takes the other's place.
  all.push(key.enabled ? button('switch', 'Disable', disableKey) : button('switch', 'Enable', enableKey));
  all.push(button('revoke', 'Revoke', revokeKey, 'danger-quiet'));
  return all;
}

/** What one should know of this key before anything else. */
function remarks(key) {
  const texts = [];
  if (key.status === 'revoked') texts.push(['Revoked ', when(key.revoked_at), ', for good.']);
  else if (key.status === 'expired') texts.push(['Expired ', when(key.expires_at), '. An expired key cannot be rotated or prolonged.']);
  else if (!key.enabled) texts.push(['Disabled: every request with this key is refused until it is enabled again.']);
  if (key.status === 'active' && key.credits?.remaining === 0) {
    const { refill } = key.credits;
    texts.push(['No credits are left: requests that cost any are refused', ...(refill ? [' until the refill ', when(nextRefill(refill))] : []), '.']);
  }
  if (isOwn(key)) texts.push(['You are signed in with this key.']);
  return texts.map((text) => h('p', { class: 'remark' }, ...text));
}

function details(key) {
  const limits = key.limits.map((limit) => h('li', null, h('strong', null, limit.name), ' ', limitText(limit)));
  const addresses = key.allowed_addresses.map((network) => h('li', null, h('code', null, network)));
  const metadata = Object.entries(key.metadata).map(([name, value]) => h('li', null, h('strong', null, name), ' ', value));
  const rows = [
    ['Owner', key.owner ?? none('None')],
    ['Environment', key.environment],
    ['Prefix', h('code', null, key.prefix)],
    ['Scopes', scopeList(key.scopes)],
    ['Limits', limits.length ? h('ul', null, limits) : none('The defaults of the service')],
    ['Credits', key.credits ? credits(key.credits) : none('None needed')],
    ['Addresses', addresses.length ? h('ul', null, addresses) : none('Everywhere')],
    ['Expires', key.expires_at ? [moment(key.expires_at), ' (', when(key.expires_at), ')'] : none('Never')],
    ['Last used', key.last_used_at ? when(key.last_used_at) : none('Never')],
    ['Created', moment(key.created_at)],
    ['Metadata', metadata.length ? h('ul', null, metadata) : none('None')],
  ];
  return h('dl', null, rows.map(([term, value]) => h('div', null, h('dt', null, term), h('dd', null, value))));
}

function credits({ remaining, refill }) {
  return h('ul', null,
    h('li', null, h('strong', null, number(remaining)), ' left'),
    refill && h('li', null, `Refilled to ${number(refill.amount)} each ${refill.every}, next `, when(nextRefill(refill))));
}

/** Days and months are those of UTC. */
function nextRefill({ every }) {
  const time = new Date(now());
  const [year, month, day] = [time.getUTCFullYear(), time.getUTCMonth(), time.getUTCDate()];
  return new Date(every === 'day' ? Date.UTC(year, month, day + 1) : Date.UTC(year, month + 1)).toISOString();
}

// ---- Credentials ----

function credentials(key) {
  const newestFirst = key.credentials.toReversed();
  const live = newestFirst.filter((credential) => !hasEnded(key, credential));
  return [
    ...live.slice(1).map(oldSecret),
    h('table', { class: 'stack' },
      h('thead', null, h('tr', null, ['Secret', 'State', 'Last used', 'Created'].map((column) => h('th', { scope: 'col' }, column)))),
      h('tbody', null, newestFirst.map((credential) => h('tr', { 'data-ended': hasEnded(key, credential) },
        h('th', { scope: 'row' }, h('code', null, `${credential.start}…`)),
        h('td', { 'data-label': 'State' }, credentialState(key, credential)),
        h('td', { 'data-label': 'Last used' }, credential.last_used_at ? when(credential.last_used_at) : none('Never')),
        h('td', { 'data-label': 'Created' }, moment(credential.created_at)))))),
  ];
}

/** Whether anybody still depends on a secret that is about to end. */
function oldSecret(credential) {
  const used = credential.last_used_at ? ['was last used ', when(credential.last_used_at)] : ['was never used'];
  const end = credential.expires_at ? ['. It ends ', when(credential.expires_at), '.'] : ['.'];
  return h('p', { class: 'remark' }, 'The old secret ', h('code', null, `${credential.start}…`), ' ', ...used, ...end);
}

function hasEnded(key, { expires_at: end }) {
  return key.status === 'revoked' || key.status === 'expired' || (end !== null && Date.parse(end) <= now());
}

function credentialState(key, credential) {
  if (!hasEnded(key, credential)) return credential.expires_at ? ['Ends ', when(credential.expires_at)] : 'Current';
  const end = credential.expires_at && Date.parse(credential.expires_at) <= now() ? credential.expires_at : key.revoked_at ?? key.expires_at;
  return ['Ended ', when(end)];
}

// ---- Use ----

async function loadUse(key, request = keyRequest) {
  const chosen = period;
  const start = periodStart(chosen);
  const query = new URLSearchParams({ from: new Date(start).toISOString(), bucket: chosen.bucket });
  let content;
  try {
    const { buckets } = await call('GET', `/keys/${key.id}/usage?${query}`);
    content = () => showUse(key, chosen, fillBuckets(chosen, start, buckets));
  } catch (error) {
    content = () => $('use').replaceChildren(failurePanel(error, () => loadUse(key)));
  }
  if (request === keyRequest && chosen === period && $('use')) content();
}

function showUse(key, shown, buckets) {
  const choose = (id, text, pressed, act) => h('button', {
    id, type: 'button', 'aria-pressed': String(pressed), onclick: act,
  }, text);
  const readout = h('p', { class: 'readout' });
  // It scrolls where the table is long, so the keyboard has to get there.
  const plot = h('div', { class: 'plot', tabindex: asTable ? 0 : null, role: asTable ? 'region' : null, 'aria-label': asTable ? 'Use as a table' : null });
  const read = (bucket) => readout.replaceChildren(...(bucket
    ? [h('strong', null, bucketText(shown, bucket.at)), ` ${useTotals([bucket])}`]
    : [h('strong', null, `Last ${shown.name}`), ` ${useTotals(buckets)}`]));
  const draw = () => plot.replaceChildren(asTable ? useTable(shown, buckets) : useChart(shown, buckets, Math.max(plot.clientWidth, 260), read));
  const focused = document.activeElement?.id;
  $('use').replaceChildren(
    h('div', { class: 'choices' },
      h('div', { class: 'choice', role: 'group', 'aria-label': 'Period' }, PERIODS.map((each) => choose(`period-${each.bucket}`, each.name, each === shown, () => {
        period = each;
        loadUse(key);
      }))),
      choose('as-table', 'Table', asTable, () => {
        asTable = !asTable;
        showUse(key, shown, buckets);
      })),
    readout,
    plot,
    h('p', { class: 'legend', hidden: asTable }, h('span', { class: 'allowed' }, 'Allowed'), ' ', h('span', { class: 'denied' }, 'Refused'),
      shown.bucket === 'day' ? h('span', { class: 'unit' }, 'Days in UTC') : null));
  read(null);
  draw();
  if (focused) $(focused)?.focus();
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (asTable || plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
}

// ---- Events ----

async function loadEvents(key, request = keyRequest) {
  $('events').replaceChildren(h('p', { class: 'empty' }, 'Loading…'));
  const list = h('ol', { class: 'events' });
  await addEvents(key, list, null, request);
}

/** Puts a page of events at the list's end, and below it a button for older ones. */
async function addEvents(key, list, before, request = keyRequest) {
  let below;
  let added = [];
  try {
    const query = before === null ? '' : `?${new URLSearchParams({ before })}`;
    const { events, next_cursor: next } = await call('GET', `/keys/${key.id}/events${query}`);
    added = events;
    below = next === null ? [] : [h('button', { id: 'older-events', type: 'button', class: 'small', onclick: () => addEvents(key, list, next) }, 'Older events')];
  } catch (error) {
    below = [failurePanel(error, () => addEvents(key, list, before))];
  }
  if (request !== keyRequest || !$('events')) return;
  const focused = document.activeElement?.id === 'older-events';
  const items = added.map(eventItem);
  list.append(...items);
  $('events').replaceChildren(list, ...below);
  if (focused) {
    // Where there is no button any more, the reader goes on with what has come.
    items[0]?.setAttribute('tabindex', '-1');
    ($('older-events') ?? items[0])?.focus();
  }
  nameActors(added, list);
}

function eventItem({ at, action, actor }) {
  const text = action[0].toUpperCase() + action.slice(1).replaceAll('_', ' ');
  return h('li', null,
    h('strong', null, text),
    h('span', { class: 'actor' }, ' by ', actor ? actorLink(actor) : 'the application'),
    h('span', { class: 'at' }, when(at)));
}

/** The key that acted, or another name that the application gave. */
function actorLink(actor) {
  if (!/^key_[0-9A-Za-z]+$/.test(actor)) return actor;
  return h('a', { href: `#${actor}`, 'data-actor': actor }, names.get(actor) ?? actor);
}

/** Puts names in the place of ids. Where that fails, the ids stay. */
async function nameActors(events, list) {
  const unknown = [...new Set(events.map(({ actor }) => actor))].filter((actor) => /^key_[0-9A-Za-z]+$/.test(actor) && !names.has(actor));
  for (const actor of unknown.slice(0, 10)) {
    try {
      remember(await call('GET', `/keys/${actor}`));
    } catch {
      continue;
    }
    for (const link of list.querySelectorAll(`[data-actor="${actor}"]`)) say(link, names.get(actor));
  }
}
